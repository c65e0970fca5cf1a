import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  root: here("."),
  base: "/",
  resolve: { alias: { callgate: here("client/src/index.ts") } },
  build: {
    target: "es2022",
    outDir: "dist",
    emptyOutDir: true,
    assetsDir: "assets",
    // The Content-Security-Policy allows neither inline scripts nor data addresses.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { index: here("index.html"), operator: here("operator.html") } },
  },
  test: {
    include: ["test/**/*.test.ts", "client/test/**/*.test.ts"],
    environment: "node",
  },
} as Parameters<typeof defineConfig>[0]);
