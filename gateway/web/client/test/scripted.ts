/** The other end of a WebSocket, as a test wants it: what no real gateway can be brought to do. */

import { vi } from "vitest";

export type Frame = Record<string, unknown>;

export class ScriptedSocket {
  static readonly OPEN = 1;
  static readonly all: ScriptedSocket[] = [];
  /** Told of every frame at the moment it is sent. */
  static onSend: ((frame: Frame) => void) | null = null;

  readonly sent: Frame[] = [];
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: ((closed: { code: number }) => void) | null = null;

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    ScriptedSocket.all.push(this);
  }

  send(text: string): void {
    const frame = JSON.parse(text) as Frame;
    ScriptedSocket.onSend?.(frame);
    this.sent.push(frame);
  }

  close(): void {
    this.readyState = 3;
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  hear(frame: Frame): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** Answer the newest request of a type. */
  answer(type: string, frame: Frame): void {
    const asked = this.sent.findLast((each) => each["type"] === type);
    if (asked === undefined) throw new Error(`nothing of type ${type} was sent`);
    this.hear({ re: asked["id"], call_id: asked["call_id"], ...frame });
  }

  drop(code = 1006): void {
    this.readyState = 3;
    this.onclose?.({ code });
  }

  of(type: string): Frame[] {
    return this.sent.filter((frame) => frame["type"] === type);
  }
}

/** Put scripted sockets and a time of the test's own in the platform's place. */
export function script(): void {
  ScriptedSocket.all.length = 0;
  ScriptedSocket.onSend = null;
  vi.useFakeTimers({ now: 1_795_392_000_000 });
  vi.stubGlobal("WebSocket", ScriptedSocket);
}

/** The newest connection, once one was tried. */
export async function newest(after = 0): Promise<ScriptedSocket> {
  for (let waited = 0; waited < 200 && ScriptedSocket.all.length <= after; waited += 1)
    await vi.advanceTimersByTimeAsync(100);
  const socket = ScriptedSocket.all.at(-1);
  if (socket === undefined || ScriptedSocket.all.length <= after) throw new Error("no connection was tried");
  return socket;
}

/** A storage of the test's own; `full` refuses every write. */
export class ScriptedStorage {
  readonly items = new Map<string, string>();
  full = false;

  get length(): number {
    return this.items.size;
  }

  key(index: number): string | null {
    return [...this.items.keys()][index] ?? null;
  }

  getItem(key: string): string | null {
    return this.items.get(key) ?? null;
  }

  setItem(key: string, value: string): void {
    if (this.full) throw new DOMException("full", "QuotaExceededError");
    this.items.set(key, value);
  }

  removeItem(key: string): void {
    this.items.delete(key);
  }
}
