//! Which word was meant by a mistyped one.

/// The candidate that takes at most two edits.
pub fn closest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let ranked = candidates
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate));
    ranked
        .filter(|(edits, _)| *edits <= 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((y, window), left) in b.iter().zip(row.windows(2)).zip(0..) {
            let (&[diagonal, above], Some(&left)) = (window, next.get::<usize>(left)) else {
                continue;
            };
            next.push(
                (diagonal + usize::from(x != *y))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(closest("conut", &["image", "count"]), Some("count"));
        assert_eq!(closest("taint", &["taints", "labels"]), Some("taints"));
        assert_eq!(closest("replicas", &["count", "image"]), None);
    }
}
