//! What is wrong with a commit: an object, a place in a file, the fault and the way out.
//!
//! Whoever checks collects these and goes on, so that a person sees all faults of a commit at once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a file of the repository. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
}

impl Place {
    /// The whole file.
    pub fn file(file: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            column: None,
        }
    }

    pub fn at(file: impl Into<String>, line: u32, column: u32) -> Self {
        Self {
            file: file.into(),
            line: Some(line),
            column: Some(column),
        }
    }

    /// The place of a byte offset in `text`. An offset past the end is the end.
    pub fn of_offset(file: impl Into<String>, text: &str, offset: usize) -> Self {
        let before = match text.get(..offset) {
            Some(before) => before,
            None => text,
        };
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).map_or(0, |l| l.chars().count()) + 1;
        Self::at(
            file,
            u32::try_from(line).unwrap_or(u32::MAX),
            u32::try_from(column).unwrap_or(u32::MAX),
        )
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        Ok(())
    }
}

/// One fault. `object` is what a person calls the thing (`pool workers`, `Deployment web/shop`; the file's path when it is
/// the file as a whole), `problem` what is wrong with it, `remedy` what to do; none of them ever quotes a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Diagnostic {
    pub place: Place,
    pub object: String,
    pub problem: String,
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if self.object != self.place.file {
            write!(f, "{}: ", self.object)?;
        }
        write!(f, "{}\n  → {}", self.problem, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_a_whole_is_named_once() {
        let mut fault = Diagnostic {
            place: Place::at("a.yaml", 3, 1),
            object: "Job a".to_owned(),
            problem: "is wrong".to_owned(),
            remedy: "mend it".to_owned(),
        };
        assert_eq!(
            fault.to_string(),
            "a.yaml:3:1: Job a: is wrong\n  → mend it"
        );
        fault.object = "a.yaml".to_owned();
        assert_eq!(fault.to_string(), "a.yaml:3:1: is wrong\n  → mend it");
    }

    #[test]
    fn an_offset_becomes_line_and_column_in_characters() {
        let text = "a = 1\nö = x\n";
        assert_eq!(Place::of_offset("f", text, 0), Place::at("f", 1, 1));
        assert_eq!(
            Place::of_offset("f", text, text.find('x').unwrap()),
            Place::at("f", 2, 5)
        );
        assert_eq!(Place::of_offset("f", text, 999), Place::at("f", 3, 1));
        assert_eq!(
            Place::of_offset("f", text, 7),
            Place::at("f", 3, 1),
            "inside a character: the end"
        );
    }
}
