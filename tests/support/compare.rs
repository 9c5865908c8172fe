//! Comparing what Ebbtide wrote with what the model expects.

use std::collections::BTreeMap;

use serde_json::Value;

/// Fractions are computed in another order of operations by the model: so close is equal.
const FRACTION_TOLERANCE: f64 = 1e-9;

/// Whether two records say the same. Times, names and counts have to be equal; fractions nearly.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left == right
                || match (left.as_f64(), right.as_f64()) {
                    (Some(left), Some(right)) => {
                        (left - right).abs() <= FRACTION_TOLERANCE * (1.0 + left.abs().max(right.abs()))
                    }
                    _ => false,
                }
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(value, other)))
        }
        _ => left == right,
    }
}

/// Takes away the one field that tells when Ebbtide noticed.
pub(crate) fn without(mut record: Value, field: &str) -> Value {
    if let Some(fields) = record.as_object_mut() {
        assert!(fields.remove(field).is_some(), "a record without {field}: {fields:?}");
    }
    record
}

/// Transition records by user, in the order given.
pub(crate) fn by_user(records: &[Value]) -> BTreeMap<String, Vec<&Value>> {
    let mut users: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for record in records {
        let user = record["user_id"].as_str().unwrap_or("(no user_id)");
        users.entry(user.to_owned()).or_default().push(record);
    }
    users
}

/// The first difference between the transitions found and those expected, each user's in order; `None` if there is none.
pub(crate) fn difference(found: &[Value], expected: &[Value]) -> Option<String> {
    let (found, expected) = (by_user(found), by_user(expected));
    for user in found.keys().chain(expected.keys()) {
        let none = Vec::new();
        let (found, expected) = (found.get(user).unwrap_or(&none), expected.get(user).unwrap_or(&none));
        for place in 0..found.len().max(expected.len()) {
            match (found.get(place), expected.get(place)) {
                (Some(found), Some(expected)) if same(found, expected) => {}
                (found, expected) => {
                    let show = |record: Option<&&Value>| record.map_or("nothing".to_owned(), ToString::to_string);
                    return Some(format!(
                        "user {user}, transition {place}:\n  found    {}\n  expected {}",
                        show(found),
                        show(expected)
                    ));
                }
            }
        }
    }
    None
}
