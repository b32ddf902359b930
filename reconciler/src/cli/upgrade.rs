//! `fabrik upgrade`: another version of Kubernetes, by a commit. Which steps are allowed the plan says.

use std::process::ExitCode;

use clap::Args;
use toml_edit::{DocumentMut, Item, Table, Value};

use super::Failure;
use super::edit::{self, EditError, EditOptions};

#[derive(Debug, Args)]
pub struct Options {
    /// A minor, as `1.36`, or one release of it, as `1.36.3+k3s1`.
    version: String,
    #[command(flatten)]
    edit: EditOptions,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let Options { version, edit } = options;
    let message = format!("Upgrade Kubernetes to {version}");
    edit::run(edit, &message, |spec| set_version(spec, &version)).await
}

fn set_version(spec: &mut DocumentMut, version: &str) -> Result<(), EditError> {
    let kubernetes = spec
        .entry("kubernetes")
        .or_insert_with(|| Item::Table(Table::new()));
    let table = kubernetes.as_table_like_mut();
    let table = table.ok_or(EditError::NoTable { name: "kubernetes" })?;
    edit::set(table, "version", Value::from(version));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_changes_and_its_comment_stays() {
        for (before, after) in [
            (
                "[kubernetes]\nversion = '1.36' # or one release\n",
                "[kubernetes]\nversion = \"1.37\" # or one release\n",
            ),
            (
                "[a]\nb = 1\n",
                "[a]\nb = 1\n\n[kubernetes]\nversion = \"1.37\"\n",
            ),
        ] {
            let mut spec: DocumentMut = before.parse().unwrap();
            set_version(&mut spec, "1.37").unwrap();
            assert_eq!(spec.to_string(), after);
        }
        let mut odd: DocumentMut = "kubernetes = 1\n".parse().unwrap();
        assert!(set_version(&mut odd, "1.37").is_err());
    }
}
