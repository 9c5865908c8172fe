//! Every record that the tests read is held against the published schemas.

use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use super::avro::AvroSchema;

/// The schemas under `schemas/`: JSON Schema, and Avro.
pub(crate) struct Schemas {
    transition: Validator,
    state: Validator,
    segment: Validator,
    outcome: Validator,
    avro_transition: AvroSchema,
    avro_state: AvroSchema,
    avro_segment: AvroSchema,
    avro_outcome: AvroSchema,
}

impl Schemas {
    pub(crate) fn load() -> Self {
        Self {
            transition: load("transition"),
            state: load("state"),
            segment: load("segment"),
            outcome: load("outcome"),
            avro_transition: AvroSchema::load("transition"),
            avro_state: AvroSchema::load("state"),
            avro_segment: AvroSchema::load("segment"),
            avro_outcome: AvroSchema::load("outcome"),
        }
    }

    pub(crate) fn assert_transition(&self, record: &Value) {
        assert_valid(&self.transition, record);
        self.avro_transition.assert_takes(record);
    }

    pub(crate) fn assert_segment(&self, record: &Value) {
        assert_valid(&self.segment, record);
        self.avro_segment.assert_takes(record);
    }

    pub(crate) fn assert_outcome(&self, record: &Value) {
        assert_valid(&self.outcome, record);
        self.avro_outcome.assert_takes(record);
    }

    pub(crate) fn assert_state(&self, record: &Value) {
        assert_valid(&self.state, record);
        self.avro_state.assert_takes(record);
    }
}

fn load(name: &str) -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemas/{name}.schema.json"));
    let schema = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    jsonschema::validator_for(&serde_json::from_slice(&schema).expect("JSON")).expect("a schema")
}

fn assert_valid(schema: &Validator, record: &Value) {
    if let Err(error) = schema.validate(record) {
        panic!("{error} at {}: {record}", error.instance_path());
    }
}
