//! Whether the secrets of the repository open: for the person who seeds, and later for the cluster.

use std::path::Path;

use crate::repo::Tree;
use crate::secrets::{Secret, Shape, Sops, Verdict, check, decrypt_file, founding_keys, shape};

/// Where `fabrik init` keeps the cluster's own key, encrypted to people.
pub const AGE_KEY_FILE: &str = "secrets/age.key";

/// The cluster's age key, opened with the person's; else why it is not to be had.
pub async fn age_key(dir: &Path, sops: Option<&Sops>) -> Result<Secret, String> {
    let Some(sops) = sops else {
        return Err(
            "you have no age key: name one by --age-key-file or SOPS_AGE_KEY_FILE, or keep it where sops looks for it"
                .to_owned(),
        );
    };
    let file = dir.join(AGE_KEY_FILE);
    if !file.is_file() {
        return Err(format!(
            "{AGE_KEY_FILE} is not there: it holds the cluster's own key. Encrypt it to you with sops, or make a repository with \
             `fabrik init`"
        ));
    }
    let key = decrypt_file(sops, &file).await;
    let key = key.map_err(|error| error.to_string())?;
    if founding_keys::recipients_of(&key).is_empty() {
        return Err(format!("{AGE_KEY_FILE} holds no age identity"));
    }
    Ok(key)
}

/// Opens each SOPS file, and looks whether the cluster can open those that are not for people alone.
pub async fn all_open(
    tree: &Tree,
    sops: Option<&Sops>,
    age_key: &Result<Secret, String>,
) -> Result<String, String> {
    let checked = check(tree, sops).await.map_err(|error| error.to_string())?;
    if let Some(first) = checked.diagnostics.first() {
        let more = checked.diagnostics.len() - 1;
        let others = if more == 0 {
            String::new()
        } else {
            format!(" ({more} more: `fabrik secrets check`)")
        };
        return Err(format!("{first}{others}"));
    }
    let closed: Vec<&str> = checked
        .files
        .iter()
        .filter(|(_, verdict)| *verdict != Verdict::Opened)
        .map(|(path, _)| path.as_str())
        .collect();
    if !closed.is_empty() {
        return Err(format!("your age key does not open {}", closed.join(", ")));
    }
    let ours = age_key.as_ref().map(founding_keys::recipients_of);
    if let Ok(ours) = ours {
        let paths = checked.files.iter().map(|(path, _)| path.as_str());
        let not_for_cluster: Vec<&str> = paths
            .filter(|path| *path != AGE_KEY_FILE && !is_for(tree, path, &ours))
            .collect();
        if !not_for_cluster.is_empty() {
            return Err(format!(
                "{} not encrypted to the cluster: put {} into .sops.yaml, and `sops updatekeys` each",
                not_for_cluster.join(", "),
                ours.join(", ")
            ));
        }
    }
    Ok(format!(
        "{} open, for you and for the cluster",
        checked.files.len()
    ))
}

fn is_for(tree: &Tree, path: &str, recipients: &[String]) -> bool {
    let Ok(content) = tree.read(path) else {
        return false;
    };
    match shape(path, &content) {
        Shape::Sops(file) => recipients.iter().any(|r| file.recipients.contains(r)),
        Shape::Plain => false,
    }
}
