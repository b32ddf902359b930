//! Answers as they are given: each is tried in a `cluster.toml` that is right elsewhere, so that what is wrong with it is told
//! while it can be given anew.

use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::spec;

use super::answers::{Answers, Forge};
use super::template;
use crate::gate::SPEC_FILE;

/// RFC 8032's first public key.
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

/// Answers that make a cluster.
pub struct Draft(Answers);

impl Draft {
    /// # Panics
    /// Never: the name is one.
    pub fn new(own: bool) -> Self {
        let Ok(name) = "draft".parse() else {
            unreachable!("it is a name")
        };
        Self(Answers {
            name,
            workers: 0,
            server_types: vec!["cx33".to_owned()],
            locations: vec!["fsn1".to_owned()],
            ssh_key: SSH_KEY.to_owned(),
            forge: Forge::None,
            fabrik_flake: "path:/draft".to_owned(),
            without_workers: own,
            own,
            recipients: None,
        })
    }

    /// Reads an answer, and finds out whether it makes a cluster.
    pub fn reader<T: Clone>(
        &self,
        read: impl Fn(&str) -> Result<T, String>,
        put: impl Fn(&mut Answers, T),
    ) -> impl Fn(&str) -> Result<T, String> {
        move |text| {
            let answer = read(text)?;
            let mut answers = self.0.clone();
            put(&mut answers, answer.clone());
            fault(&answers).map_or(Ok(answer), Err)
        }
    }

    /// Which types there are differs by location. Those of a flag may be wrong, and are no fault of the types.
    pub fn know_locations(&mut self, locations: Option<&[String]>) {
        let mut answers = self.0.clone();
        answers.locations = locations.unwrap_or(&answers.locations).to_vec();
        if fault(&answers).is_none() {
            self.0 = answers;
        }
    }
}

/// What is wrong with `cluster.toml`, without the place in a file that nobody has seen yet.
fn fault(answers: &Answers) -> Option<String> {
    let text = &template::files(answers)[SPEC_FILE];
    let faults = spec::parse(SPEC_FILE, text).err()?;
    let said = |fault: &Diagnostic| format!("{}: {}", fault.problem, fault.remedy);
    Some(faults.iter().map(said).collect::<Vec<_>>().join("\n  "))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::path::Path;

    use super::super::answers::{Flags, gather};
    use super::super::terminal::Ask;
    use super::*;

    /// What is seen where these lines are typed.
    fn seen(flags: Flags, lines: &str) -> (Option<Answers>, String) {
        let (mut seen, mut lines) = (Vec::new(), lines.as_bytes());
        let mut ask = Ask::person(|line| lines.read_line(line), &mut seen);
        let told = gather(flags, Path::new("demo"), None, &mut ask).unwrap();
        drop(ask);
        (told, String::from_utf8(seen).unwrap())
    }

    #[test]
    fn an_answer_that_makes_no_cluster_is_asked_for_again_at_once() {
        let cut_off = &SSH_KEY[..40];
        let lines = format!(
            "500\n2\nfsn1,ash\nash\ncx33 cax21\nlarge\ncpx21\n{cut_off}\n{SSH_KEY}\nnone\npath:/x\n"
        );
        let (told, seen) = seen(Flags::default(), &lines);
        let told = told.unwrap();
        assert_eq!((told.name.as_str(), told.workers), ("demo", 2));
        assert_eq!(told.locations, ["ash"]);
        assert_eq!(told.server_types, ["cpx21"], "retired elsewhere");
        assert_eq!(told.ssh_key, SSH_KEY);
        let problems: Vec<_> = seen.split(":   ").skip(1).collect();
        let begins = [
            "`nodes` = 10.0.1.0/24 has addresses for 253 servers at most, and 500 are wanted: choose",
            "`ash` is in the network zone us-east, and the network in eu-central: use locations of",
            "`cx33` (x86_64) and `cax21` (aarch64) can't run the one system",
            "`large` is not a server type: use one of Hetzner's",
            "the key `you` is cut off or mistyped: paste the one line",
        ];
        assert_eq!(problems.len(), begins.len(), "{seen}");
        for (problem, begin) in problems.iter().zip(begins) {
            assert!(problem.starts_with(begin), "{begin}: {problem}");
        }
    }

    #[test]
    fn a_flag_that_is_wrong_is_no_fault_of_the_answers() {
        let flags = Flags {
            locations: vec!["Nuremberg".to_owned()],
            workers: Some(1),
            ..Flags::default()
        };
        let lines = format!("cx33\n{SSH_KEY}\nnone\npath:/x\n");
        let (told, _) = seen(flags, &lines);
        assert_eq!(told.unwrap().server_types, ["cx33"]);
        assert!(fault(&Draft::new(true).0).is_none());
    }
}
