"""The Grafana dashboard shows what a gateway really exposes."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

import httpx
import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from gateway import metrics
from tests.docs.pages import ROOT
from tests.support.gateways import GatewayProcess

DASHBOARD: Final[dict[str, Any]] = json.loads(
    (ROOT / "deploy" / "grafana" / "callgate.json").read_text(encoding="utf-8")
)
PANELS: Final[list[dict[str, Any]]] = DASHBOARD["panels"]
FIGURES: Final = [panel for panel in PANELS if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in FIGURES:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of samples that a gateway exposes, as its description of them says, each with its labels."""
    types = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    labels = {
        family.name: set(metric._labelnames)
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
        for family in metric.describe()
    }
    with GatewayProcess(tmp_path_factory.mktemp("gateway")) as gateway:
        text = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    return {
        family.name + suffix: labels[family.name] | ({"le"} if suffix == "_bucket" else set())
        for family in text_string_to_metric_families(text)
        if family.name in labels
        for suffix in types[family.type]
    }


def test_every_metric_that_a_panel_names_is_exposed_with_the_labels_that_it_uses(
    exposed: dict[str, set[str]],
) -> None:
    for where, expression in expressions():
        names = re.findall(r"\bcallgate_\w+", expression)
        assert names or "up{" in expression, where
        for name in names:
            assert name in exposed, f"{where} names {name}"
            for labels in re.findall(rf"{name}{{([^}}]*)}}", expression):
                used = set(re.findall(r"(\w+)=", labels)) - {"job"}
                assert used <= exposed[name], f"{where} uses {used} of {name}"
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", grouped)) - {"instance"} <= set.union(*(exposed[n] for n in names))


def test_every_metric_has_a_panel(exposed: dict[str, set[str]]) -> None:
    shown = " ".join(expression for _, expression in expressions())
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed}
    assert {name for name in bare if name not in shown} == set()


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_it_works_with_any_prometheus_and_its_expressions_are_whole() -> None:
    for panel in FIGURES:
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["expr"].count("{") == target["expr"].count("}")
            assert 'job=~"$job"' in target["expr"]
