//! A merge that was committed half done.

use crate::diagnostic::{Diagnostic, Place};

/// The first conflict that git left in a text, if it is a whole one. What stands between its marks is of no use to a
/// parser, whose complaints would hide the cause.
pub fn conflict(file: &str, text: &str) -> Option<Diagnostic> {
    let mut lines = (1_u32..).zip(text.lines());
    let (begin, _) = lines.find(|(_, line)| line.starts_with("<<<<<<< "))?;
    lines.find(|(_, line)| line.starts_with(">>>>>>> "))?;
    Some(Diagnostic {
        place: Place::at(file, begin, 1),
        object: file.to_owned(),
        problem: "a merge conflict was left here".to_owned(),
        remedy: "resolve it: keep one side and remove the marks".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_has_both_marks_at_the_beginning_of_a_line() {
        let whole = "a\n<<<<<<< HEAD\nb\n=======\nc\n>>>>>>> other\n";
        let place = conflict("f", whole).map(|fault| fault.place);
        assert_eq!(place, Some(Place::at("f", 2, 1)));
        for none in [
            "<<<<<<< HEAD\n",
            "  <<<<<<< HEAD\n  >>>>>>> other\n",
            "<<: *a\n",
        ] {
            assert_eq!(conflict("f", none), None, "{none}");
        }
    }
}
