//! Values that must not reach a log, a screen or an error message.

use std::collections::BTreeMap;
use std::fmt;

/// What a masked value prints as.
const MASK: &str = "***";

/// A secret of the configuration. `Debug` prints `***`; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// librdkafka properties by name. `Debug` masks the values of those that can hold a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// From names and values.
    #[must_use]
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self(values)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of one property.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, value)| (name, if is_secret(name) { MASK } else { value }));
        f.debug_map().entries(shown).finish()
    }
}

/// Whether a librdkafka property can hold a secret: passwords, keys, tokens, and JAAS-like free text.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    const SIGNS: [&str; 8] = ["password", "secret", "token", "credential", "key", "pem", "jaas", "oauthbearer.config"];
    // The one kind of property about keys that is no secret: where a key is, or what it is called.
    let name = name.to_ascii_lowercase();
    !name.ends_with(".location") && SIGNS.iter().any(|sign| name.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        let properties = Properties::new(
            [
                ("sasl.password", "hunter2"),
                ("ssl.key.pem", "hunter2"),
                ("ssl.key.password", "hunter2"),
                ("sasl.oauthbearer.client.secret", "hunter2"),
                ("sasl.oauthbearer.config", "hunter2"),
                ("ssl.key.location", "/etc/client.key"),
                ("sasl.username", "ebbtide"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        );
        let shown = format!("{properties:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("/etc/client.key") && shown.contains("\"ebbtide\""), "{shown}");
    }
}
