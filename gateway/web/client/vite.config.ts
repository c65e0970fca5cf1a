import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The client as one module, to be published and to be served by gateways at /callgate.js. */
export default defineConfig({
  root: here("."),
  build: {
    target: "es2022",
    outDir: "dist",
    emptyOutDir: true,
    copyPublicDir: false,
    lib: { entry: here("src/index.ts"), formats: ["es"], fileName: () => "callgate.js" },
  },
});
