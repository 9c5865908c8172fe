//! The part of Avro's specification that the published schemas use: named types, unions, defaults, and what JSON stands
//! for which Avro type. It rejects any schema construct that it does not know, so no schema passes by being unread.
//!
//! As the schemas' `doc` has it, times are RFC 3339 in JSON and `timestamp-millis` in Avro, and the values of `properties`
//! are JSON texts in Avro.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// A schema under `schemas/`, with the types that it names.
pub(crate) struct AvroSchema {
    root: Value,
    names: BTreeMap<String, Value>,
}

impl AvroSchema {
    pub(crate) fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.avsc"));
        let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let root: Value = serde_json::from_slice(&text).expect("JSON");
        let mut schema = Self { root: root.clone(), names: BTreeMap::new() };
        schema.define(&root, name);
        schema
    }

    /// Panics unless `record` has exactly the schema's fields, each with a value of its type; one with a default may be
    /// missing.
    pub(crate) fn assert_takes(&self, record: &Value) {
        if let Err(why) = self.takes(&self.root, record, "") {
            panic!("the Avro schema does not take {why}: {record}");
        }
    }

    /// Gathers names, each defined once and before it is used, and checks defaults.
    fn define(&mut self, schema: &Value, place: &str) {
        match schema {
            Value::String(name) => {
                let primitive = ["null", "boolean", "long", "double", "string"].contains(&name.as_str());
                assert!(primitive || self.names.contains_key(name), "{place}: no type {name} by here");
            }
            Value::Array(branches) => branches.iter().for_each(|branch| self.define(branch, place)),
            Value::Object(schema) => match text(schema, "type") {
                "record" => {
                    for field in schema["fields"].as_array().expect("fields") {
                        let place = format!("{place}.{}", field["name"].as_str().expect("a name"));
                        assert!(field["doc"].as_str().is_some_and(|doc| !doc.is_empty()), "{place} has no doc");
                        self.define(&field["type"], &place);
                        if let Some(default) = field.get("default") {
                            // A union's default is of its first branch.
                            let first = field["type"].as_array().map_or(&field["type"], |branches| &branches[0]);
                            self.takes(first, default, &place).expect("the default is of its type");
                        }
                    }
                }
                "enum" => {
                    let twice = self.names.insert(text(schema, "name").to_owned(), Value::Object(schema.clone()));
                    assert!(twice.is_none(), "{place}: {} is defined twice", text(schema, "name"));
                }
                "array" => self.define(&schema["items"], place),
                "map" => self.define(&schema["values"], place),
                "long" => assert_eq!(text(schema, "logicalType"), "timestamp-millis", "{place}"),
                other => panic!("{place}: a type that is not known here: {other}"),
            },
            other => panic!("{place}: no schema: {other}"),
        }
    }

    fn takes(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{value} as {what} at {place}"));
        match schema {
            Value::String(name) => match (name.as_str(), value) {
                ("null", Value::Null) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => Ok(()),
                ("long", Value::Number(number)) if number.is_i64() => Ok(()),
                ("double", Value::Number(_)) => Ok(()),
                ("null" | "boolean" | "string" | "long" | "double", _) => wrong(name),
                (named, _) => self.takes(&self.names[named], value, place),
            },
            Value::Array(branches) => {
                let taken = branches.iter().filter(|branch| self.takes(branch, value, place).is_ok()).count();
                if taken == 1 { Ok(()) } else { wrong("one branch of a union") }
            }
            Value::Object(schema) => match (text(schema, "type"), value) {
                ("record", Value::Object(record)) => self.takes_record(schema, record, place),
                ("enum", Value::String(symbol)) => {
                    let symbols = schema["symbols"].as_array().expect("symbols");
                    if symbols.iter().any(|known| known == symbol) { Ok(()) } else { wrong("one of the symbols") }
                }
                ("array", Value::Array(items)) => {
                    items.iter().try_for_each(|item| self.takes(&schema["items"], item, place))
                }
                // Any JSON value, as its text.
                ("map", Value::Object(_)) if schema["values"] == "string" => Ok(()),
                ("long", Value::String(time)) if chrono::DateTime::parse_from_rfc3339(time).is_ok() => Ok(()),
                (kind, _) => wrong(kind),
            },
            other => Err(format!("{other} is no schema")),
        }
    }

    fn takes_record(
        &self,
        schema: &Map<String, Value>,
        record: &Map<String, Value>,
        place: &str,
    ) -> Result<(), String> {
        let fields = schema["fields"].as_array().expect("fields");
        for field in fields {
            let name = field["name"].as_str().expect("a name");
            match record.get(name) {
                Some(value) => self.takes(&field["type"], value, &format!("{place}.{name}"))?,
                None if field.get("default").is_some() => {}
                None => return Err(format!("a record without {name}")),
            }
        }
        let unknown = record.keys().find(|key| fields.iter().all(|field| field["name"] != **key));
        unknown.map_or(Ok(()), |key| Err(format!("the field {key}, which it does not have,")))
    }
}

fn text<'v>(schema: &'v Map<String, Value>, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no {key} in {schema:?}"))
}
