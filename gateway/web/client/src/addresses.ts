/** A gateway's addresses, from its URL as people write it: http, https, ws or wss. @internal */
export interface Address {
  readonly http: string;
  readonly websocket: string;
}

/** Read a gateway's URL. Throws TypeError for anything else, also for one with a user name. @internal */
export function parseAddress(url: string | URL): Address {
  const parsed = new URL(url);
  const secure = { "http:": false, "ws:": false, "https:": true, "wss:": true }[parsed.protocol];
  if (secure === undefined || parsed.username !== "" || parsed.password !== "")
    throw new TypeError("This is not the URL of a gateway, such as https://calls.example.com");
  const path = parsed.pathname.replace(/\/+$/, "");
  return {
    http: `http${secure ? "s" : ""}://${parsed.host}${path}`,
    websocket: `ws${secure ? "s" : ""}://${parsed.host}${path}`,
  };
}
