//! `fabrik scale`: another number of workers, by a commit.

use std::process::ExitCode;

use clap::Args;
use fabrik_core::id::PoolName;
use fabrik_core::names::SERVERS_POOL;
use toml_edit::{DocumentMut, TableLike, Value};

use super::Failure;
use super::edit::{self, EditError, EditOptions};

#[derive(Debug, Args)]
pub struct Options {
    /// The pool, as `cluster.toml` calls it.
    pool: PoolName,
    /// How many workers it is to have in all.
    #[arg(value_parser = in_all)]
    count: u32,
    #[command(flatten)]
    edit: EditOptions,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let Options { pool, count, edit } = options;
    let message = format!("Scale {pool} to {count}");
    edit::run(edit, &message, |spec| set_count(spec, &pool, count)).await
}

/// `+1` reads as one more, and is no number of workers.
fn in_all(text: &str) -> Result<u32, String> {
    let is_number = text.chars().all(|c| c.is_ascii_digit());
    let count = is_number.then(|| text.parse().ok()).flatten();
    count.ok_or_else(|| "write how many workers it is to have in all, like 3".to_owned())
}

fn set_count(spec: &mut DocumentMut, pool: &PoolName, count: u32) -> Result<(), EditError> {
    let pools = spec.get_mut("pools").and_then(|p| p.as_table_like_mut());
    let known: Vec<String> = pools
        .iter()
        .flat_map(|pools| pools.iter().map(|(name, _)| name.to_owned()))
        .collect();
    let table: Option<&mut dyn TableLike> = pools
        .and_then(|pools| pools.get_mut(pool.as_str()))
        .and_then(|table| table.as_table_like_mut());
    let Some(table) = table else {
        if pool.as_str() == SERVERS_POOL {
            return Err(EditError::Servers);
        }
        return Err(EditError::NoSuchPool {
            pool: pool.to_string(),
            known: known.join(", "),
        });
    };
    edit::set(table, "count", Value::from(i64::from(count)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(text: &str, pool: &str) -> Result<String, String> {
        let mut spec: DocumentMut = text.parse().unwrap();
        let set = set_count(&mut spec, &pool.parse().unwrap(), 5);
        set.map(|()| spec.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_the_number_changes_however_it_is_written() {
        for (before, after) in [
            (
                "# mine\n[pools.web]\ncount  =  2   # two\nb = 1 # one\n",
                "# mine\n[pools.web]\ncount  =  5   # two\nb = 1 # one\n",
            ),
            (
                "pools.web = { count = 2, b = 1 } # c\n",
                "pools.web = { count = 5, b = 1 } # c\n",
            ),
            ("[pools]\nweb.count = 2\n", "[pools]\nweb.count = 5\n"),
            ("[pools.web]\nb = 1\n", "[pools.web]\nb = 1\ncount = 5\n"),
        ] {
            assert_eq!(scaled(before, "web").as_deref(), Ok(after));
        }
    }

    #[test]
    fn one_more_is_no_number_of_workers() {
        assert_eq!(in_all("3"), Ok(3));
        for wrong in ["+1", "-1", "", "3.5", "99999999999"] {
            assert!(in_all(wrong).unwrap_err().contains("in all"), "{wrong}");
        }
    }

    #[test]
    fn a_pool_that_is_not_there_is_told_with_those_that_are() {
        let told = scaled("[pools.a]\n[pools.b]\n", "web").unwrap_err();
        assert!(
            told.contains("no pool `web`") && told.contains("a, b"),
            "{told}"
        );
        assert!(scaled("", "web").unwrap_err().contains("no pool"));
        let servers = scaled("[servers]\ncount = 1\n", "servers").unwrap_err();
        assert!(servers.contains("change `count` in [servers]"), "{servers}");
        assert!(scaled("pools = 1\n", "web").is_err());
    }
}
