//! What Nix says when something fails, cut to what a person needs: the error itself, and where in their own repository
//! it comes from.

/// More lines than this of one failure help nobody.
const MAX_LINES: usize = 40;
const MAX_LINES_OF_GIT: usize = 3;
const MAX_LINE_CHARS: usize = 300;
/// How far Nix indents what is within an error.
const INDENT: &str = "       ";

/// The errors in what Nix wrote. `source` is where Nix keeps the commit's files, as a store path: of the frames of a
/// trace, those are kept that lie there, and they name files as the repository does.
pub fn cut(stderr: &str, source: Option<&str>) -> String {
    let text = clean(stderr);
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len())
        .filter(|&at| lines.get(at).is_some_and(|l| l.starts_with("error:")))
        .collect();
    let kept: Vec<String> = if starts.is_empty() {
        let from = lines.len().saturating_sub(MAX_LINES);
        lines.iter().skip(from).map(ToString::to_string).collect()
    } else {
        let ends = starts.iter().skip(1).copied().chain([lines.len()]);
        starts
            .iter()
            .zip(ends)
            .filter_map(|(&start, end)| lines.get(start..end))
            .flat_map(|block| one_error(block, source))
            .collect()
    };
    let kept = kept
        .iter()
        .map(|line| shorten(&of_repository(line, source)));
    // git says why it did not fetch, and Nix only that something is missing.
    let of_git = lines.iter().filter(|line| line.starts_with("fatal:"));
    let of_git = of_git.map(|line| shorten(line)).take(MAX_LINES_OF_GIT);
    let kept: Vec<String> = kept.take(MAX_LINES).chain(of_git).collect();
    kept.join("\n").trim().to_owned()
}

/// An error and its frames. The error itself comes last in Nix's text and first in ours.
fn one_error(block: &[&str], source: Option<&str>) -> Vec<String> {
    let inner = format!("{INDENT}error:");
    let Some(at) = block.iter().rposition(|line| line.starts_with(&inner)) else {
        return block.iter().map(ToString::to_string).collect();
    };
    let (frames, error) = block.split_at(at);
    let outdent = |line: &&str| line.strip_prefix(INDENT).unwrap_or(line).to_owned();
    let mut kept: Vec<String> = error.iter().map(outdent).collect();
    while kept.last().is_some_and(|line| line.trim().is_empty()) {
        kept.pop();
    }
    // The innermost first: that is where to look.
    for frame in frames.split(|line| line.trim().is_empty()).rev() {
        let ours = |line: &str| source.is_some_and(|source| line.contains(entry(source)));
        if frame.iter().any(|line| ours(line)) {
            kept.extend(frame.iter().map(outdent));
        }
    }
    kept
}

/// `HASH-source` of `/nix/store/HASH-source`: a store that lies elsewhere has it too.
fn entry(source: &str) -> &str {
    source.rsplit('/').next().unwrap_or(source)
}

/// Names files as the repository does.
fn of_repository(line: &str, source: Option<&str>) -> String {
    let Some(source) = source else {
        return line.to_owned();
    };
    let inside = format!("{}/", entry(source));
    let mut rest = line;
    let mut told = String::new();
    while let Some(at) = rest.find(&inside) {
        let (before, after) = rest.split_at(at);
        let path = before
            .rfind([' ', '\'', '"', '`', '(', '«'])
            .map_or(0, |i| {
                i + before
                    .get(i..)
                    .and_then(|s| s.chars().next())
                    .map_or(1, char::len_utf8)
            });
        told.push_str(before.get(..path).unwrap_or(before));
        rest = after.get(inside.len()..).unwrap_or_default();
    }
    told + rest
}

/// Without what would steer a terminal.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // A colour: up to its final letter.
            '\u{1b}' => while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {},
            '\n' => clean.push('\n'),
            '\t' => clean.push(' '),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

fn shorten(line: &str) -> String {
    let line = line.trim_end();
    if line.chars().count() <= MAX_LINE_CHARS {
        return line.to_owned();
    }
    line.chars().take(MAX_LINE_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "/nix/store/j3w7r9ghlcgcjmyhrgx5w7g9qnyd6zfq-source";

    #[test]
    fn of_a_trace_the_error_and_the_frames_of_the_repository_are_kept() {
        let said = "\
warning: Git tree is dirty
error:
       … while evaluating the attribute 'drvPath'
         at /nix/store/6zfqr9ghlcgcjmyhrgx5w7g9qnydj3w7-source/lib/modules.nix:5:5:
            4|   x
             | ^

       … while calling the 'throw' builtin
         at /tmp/s/nix/store/j3w7r9ghlcgcjmyhrgx5w7g9qnyd6zfq-source/hosts/web.nix:14:47:
           13|     a
           14|     b = throw \"no\";
             |         ^

       error: A definition for option `a' is not of type `b'.

       - In `/nix/store/j3w7r9ghlcgcjmyhrgx5w7g9qnyd6zfq-source/flake.nix': 3
";
        let told = "\
error: A definition for option `a' is not of type `b'.

- In `flake.nix': 3
… while calling the 'throw' builtin
  at hosts/web.nix:14:47:
    13|     a
    14|     b = throw \"no\";
      |         ^";
        assert_eq!(cut(said, Some(SOURCE)), told);
    }

    #[test]
    fn what_git_says_is_kept() {
        let said = "\
fatal: Unable to create 'shallow.lock': File exists.
warning: could not update local clone of Git repository 'a'; continuing with the most recent version
error:
       … while fetching the input 'git+file:///a'

       error: Cannot find Git revision '7f3a' in ref 'master' of repository 'a'!
";
        let told = "\
error: Cannot find Git revision '7f3a' in ref 'master' of repository 'a'!
fatal: Unable to create 'shallow.lock': File exists.";
        assert_eq!(cut(said, None), told);
    }

    #[test]
    fn of_a_build_each_error_is_kept_with_the_end_of_its_log() {
        let said = "\
this derivation will be built:
  /nix/store/x.drv
error: builder for '/nix/store/x.drv' failed with exit code 3;
       last 1 log lines:
       > \u{1b}[31mno space\u{1b}[0m
error: 1 dependencies of derivation '/nix/store/y.drv' failed to build
";
        let told = "\
error: builder for '/nix/store/x.drv' failed with exit code 3;
       last 1 log lines:
       > no space
error: 1 dependencies of derivation '/nix/store/y.drv' failed to build";
        assert_eq!(cut(said, Some(SOURCE)), told);
    }

    #[test]
    fn nothing_is_longer_than_a_person_reads() {
        let endless = format!("error: {}\n", "a".repeat(1000)).repeat(100);
        let told = cut(&endless, None);
        assert_eq!(told.lines().count(), MAX_LINES);
        assert!(
            told.lines()
                .all(|l| l.chars().count() == MAX_LINE_CHARS + 1)
        );
        let without: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(cut(&without, None).lines().next(), Some("line 60"));
        assert_eq!(cut("", None), "");
    }
}
