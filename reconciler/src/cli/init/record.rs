//! What `fabrik init` wrote into a repository, as it wrote it. Beside it, a person's changes can be told from the
//! template's, and the template's merged into the person's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::InitError;
use super::answers::Answers;
use super::files;

pub const RECORD_FILE: &str = ".fabrik/template.toml";
const HEADER: &str = "# What `fabrik init` wrote here, as it was, so that `fabrik init --upgrade` can tell your changes from the\n\
                      # template's. Not to be edited.\n\n";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub answers: Answers,
    /// Texts by path. A file that was there before is not among them: it is all the user's.
    pub files: BTreeMap<String, String>,
}

impl Record {
    pub fn of(answers: Answers) -> Self {
        Self {
            answers,
            files: BTreeMap::new(),
        }
    }

    /// None where `fabrik init` was never at work, or not to its end.
    pub fn read(dir: &Path) -> Result<Option<Self>, InitError> {
        let path = dir.join(RECORD_FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(files::failed("read", &path))?,
        };
        let read = toml::from_str(&text);
        read.map(Some)
            .map_err(|error: toml::de::Error| InitError::Record {
                path,
                problem: error.message().to_owned(),
            })
    }

    pub fn text(&self) -> Result<String, InitError> {
        Ok(format!("{HEADER}{}", toml::to_string_pretty(self)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::tests::answers;
    use super::super::template;
    use super::*;

    #[test]
    fn what_is_recorded_reads_back_as_it_was() {
        let mut record = Record::of(answers());
        for (path, text) in template::files(&record.answers) {
            record.files.insert(path.to_owned(), text);
        }
        let odd = "''' \"\"\" \\ \t\nno end".to_owned();
        record.files.insert("odd".to_owned(), odd);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let text = record.text().unwrap();
        files::replace(&dir.path().join(RECORD_FILE), &text).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        // So that a change of it can be read as one.
        assert!(text.contains("\n# What this cluster is."), "{text}");
    }
}
