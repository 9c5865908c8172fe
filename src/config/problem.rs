//! What is wrong with a configuration: every problem, each with the path of its key.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The key's path as the file writes it: `policy.at_risk.window`. Empty where the file as a whole is meant.
    pub path: String,
    /// What is wrong and what would be right, in one line. Never holds a secret's value.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// A configuration that cannot be used. The person who wrote it must change it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no TOML at all.
    #[error("{origin} is not valid TOML: {message}")]
    Syntax {
        /// The file, or what else the text came from.
        origin: String,
        /// What and where, over several lines.
        message: String,
    },
    /// It has values that cannot be meant.
    #[error("{origin} has {}:{}", count(problems.len()), list(problems))]
    Problems {
        /// The file, or what else the text came from.
        origin: String,
        /// All of them, in order of their paths.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// The problems one by one; empty for an unreadable file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Problems { problems, .. } => problems,
            Self::Read { .. } | Self::Syntax { .. } => &[],
        }
    }
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
