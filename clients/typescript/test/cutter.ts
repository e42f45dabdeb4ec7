/** A TCP proxy that cuts connections: the first ones after some bytes of the answer, the others never. */

import { type AddressInfo, connect, createServer } from "node:net";

export interface Cutter {
  url: string;
  /** Connections so far that carried bytes of an answer. */
  cuts: number;
  close(): void;
}

/** Stand before a server. `limits`: how many bytes of the answers each connection carries; those beyond the list: all. */
export async function cutter(target: string, limits: number[]): Promise<Cutter> {
  const { hostname, port } = new URL(target);
  const server = createServer((down) => {
    const up = connect(Number(port), hostname);
    const limit = limits.shift() ?? Number.POSITIVE_INFINITY;
    let carried = 0;
    down.pipe(up);
    up.on("data", (data) => {
      const left = limit - carried;
      carried += data.length;
      if (carried < limit) return down.write(data);
      made.cuts++;
      down.write(data.subarray(0, left), () => down.resetAndDestroy());
      return up.destroy();
    });
    up.on("end", () => down.end());
    for (const socket of [up, down]) socket.on("error", () => (socket === up ? down : up).destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const made = { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cuts: 0, close: () => server.close() };
  return made;
}
