//! The published schemas: what a shard writes fits them, and the Avro forms name the same fields as the JSON ones.

use std::collections::BTreeSet;

use super::*;

const JSON: [(Topic, &str); 4] = [
    (Topic::Transitions, include_str!("../../../schemas/transition.schema.json")),
    (Topic::States, include_str!("../../../schemas/state.schema.json")),
    (Topic::Segments, include_str!("../../../schemas/segment.schema.json")),
    (Topic::Outcomes, include_str!("../../../schemas/outcome.schema.json")),
];
const AVRO: [(Topic, &str); 4] = [
    (Topic::Transitions, include_str!("../../../schemas/transition.avsc")),
    (Topic::States, include_str!("../../../schemas/state.avsc")),
    (Topic::Segments, include_str!("../../../schemas/segment.avsc")),
    (Topic::Outcomes, include_str!("../../../schemas/outcome.avsc")),
];

fn schema(topic: Topic) -> Value {
    let text = JSON.into_iter().find(|(of, _)| *of == topic).map(|(_, text)| text);
    serde_json::from_str(text.expect("every topic of our own JSON has a schema")).expect("JSON")
}

/// Panics for the first record that is not as published; says how many there were.
pub(super) fn assert_published(outputs: &[Output]) -> usize {
    let mut seen = 0;
    for (topic, _) in JSON {
        let validator = jsonschema::validator_for(&schema(topic)).expect("a schema");
        for record in of_topic(outputs, topic).filter_map(parsed) {
            if let Err(error) = validator.validate(&record) {
                panic!("{topic:?}: {error} at {}: {record}", error.instance_path());
            }
            seen += 1;
        }
    }
    seen
}

#[test]
fn the_avro_schemas_name_the_fields_of_the_json_schemas() {
    for (topic, avro) in AVRO {
        let (json, avro) = (schema(topic), serde_json::from_str::<Value>(avro).expect("an Avro schema is JSON"));
        let names = |fields: Vec<&str>| fields.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
        let published = names(json["properties"].as_object().expect("fields").keys().map(String::as_str).collect());
        let fields = avro["fields"].as_array().expect("fields");
        assert_eq!(names(fields.iter().map(|field| text(field, "name")).collect()), published, "{topic:?}");
        let required: Vec<&str> =
            json["required"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        for field in fields {
            let name = text(field, "name");
            let may_be_null = field["type"].as_array().is_some_and(|union| union.contains(&Value::from("null")));
            assert!(required.contains(&name) || may_be_null, "{topic:?}: {name} may be missing");
            assert_eq!(may_be_null, field.get("default").is_some(), "{topic:?}: {name}");
        }
    }
}
