// Checks dashboards against Grafana's own published schema: the package @grafana/schema, whose types Grafana generates from
// the kinds that it validates with. Each dashboard becomes a literal of those types, so an unknown key, a missing one and a
// value of the wrong kind are errors of the compiler. Usage: node dashboards.mjs DASHBOARD.json...

import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const here = dirname(fileURLToPath(import.meta.url));

const HEAD = `
import type * as schema from "@grafana/schema";
import type * as kind from "@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import type * as stat from "@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type * as table from "@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type * as timeseries from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";

// A value as JSON has it: the text or the number of an enumeration instead of its member; "null" where a number may be
// infinite, which JSON cannot say.
type Json<T> = T extends string ? (string extends T ? string : \`\${T}\`)
  : T extends number ? (number extends T ? number : \`\${T}\` extends \`\${infer N extends number}\` ? N : T)
  : T extends boolean | null | undefined ? T
  : T extends Array<infer U> ? Array<Json<U>>
  : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
type Threshold = Omit<kind.Threshold, "value"> & { value: number | null };
type Thresholds = Omit<kind.ThresholdsConfig, "steps"> & { steps: Array<Threshold> };
type Defaults<Custom> = Omit<kind.FieldConfig, "custom" | "thresholds"> & { custom: Custom; thresholds?: Thresholds };
type Field<Custom> = Omit<kind.FieldConfigSource, "defaults"> & { defaults: Defaults<Custom> };
// Grafana publishes no schema of the Prometheus query with the rest: the common part, and what its documentation names.
type Query = schema.DataQuery & { expr: string; legendFormat?: string; instant?: boolean; range?: boolean;
  format?: "table" | "time_series" | "heatmap"; interval?: string; exemplar?: boolean; editorMode?: "code" | "builder" };
// A dashboard need not say what Grafana fills in: every default is one it has.
type Panel<Type, Custom, Options> = Json<Omit<kind.Panel, "type" | "fieldConfig" | "options" | "targets">
  & { type: Type; fieldConfig: Field<Custom>; options: Partial<Options>; targets: Array<Query> }>;
type Dashboard = Json<Omit<kind.Dashboard, "panels">>;
type Row = Json<kind.RowPanel>;
type Stat = Panel<"stat", Record<string, never>, stat.Options>;
type Table = Panel<"table", Partial<table.FieldConfig>, table.Options>;
type Timeseries = Panel<"timeseries", timeseries.FieldConfig, timeseries.Options>;
`;

const kinds = { row: "Row", stat: "Stat", table: "Table", timeseries: "Timeseries" };
let failed = false;

for (const path of process.argv.slice(2)) {
  const { panels, ...dashboard } = JSON.parse(readFileSync(path, "utf8"));
  const literals = [["Dashboard", dashboard], ...panels.map((panel) => [kinds[panel.type], panel])];
  const lines = literals.map(([type, value], number) => {
    if (!type) throw new Error(`${path}: no schema is named here for a panel of type ${value.type}`);
    return `export const v${number}: ${type} = ${JSON.stringify(value, null, 1)};`;
  });
  // Beside this file, so that the package is found.
  const name = join(here, `${basename(path)}.check.ts`);
  const text = HEAD + lines.join("\n");
  const options = {
    strict: true, noEmit: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Node10, types: [], ignoreDeprecations: "5.0",
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists, readFile } = host;
  host.getSourceFile = (file, ...rest) =>
    file === name ? ts.createSourceFile(file, text, ts.ScriptTarget.ES2022) : getSourceFile(file, ...rest);
  host.fileExists = (file) => file === name || fileExists(file);
  host.readFile = (file) => (file === name ? text : readFile(file));
  const found = ts.getPreEmitDiagnostics(ts.createProgram([name], options, host));
  for (const problem of found) {
    const where = problem.file?.getLineAndCharacterOfPosition(problem.start);
    const line = where ? text.split("\n")[where.line].trim() : "";
    console.error(`${path}: ${ts.flattenDiagnosticMessageText(problem.messageText, "\n  ")}\n  at ${line}`);
  }
  failed ||= found.length > 0;
  console.log(`${path}: ${literals.length} parts, ${found.length} problems`);
}
process.exitCode = failed ? 1 : 0;
