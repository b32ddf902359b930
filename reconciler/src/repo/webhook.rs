//! Whether a webhook call comes from the git server that shares our secret.
//!
//! Pure. A verified call only triggers a fetch, so nothing of the body is believed or even read.

use ring::hmac;

use crate::secrets::Secret;

/// The headers that may prove a call, as the git servers send them.
const SIGNATURES: [(&str, &str); 4] = [
    // GitHub, and all that imitate it (docs.github.com, "Validating webhook deliveries").
    ("x-hub-signature-256", "sha256="),
    // Bare hex (forgejo.org/docs, "Webhooks"; docs.gitea.com, "Webhooks").
    ("x-forgejo-signature", ""),
    ("x-gitea-signature", ""),
    ("x-gogs-signature", ""),
];
/// GitLab sends the secret itself (docs.gitlab.com, "Webhooks").
const GITLAB_TOKEN: &str = "x-gitlab-token";

/// Why a call was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error(
        "the call has no signature. Set a secret for the webhook at the git server: the content of webhook.secret-file"
    )]
    Unsigned,
    #[error("the {header} header is malformed")]
    Malformed { header: &'static str },
    #[error(
        "the {header} header does not fit the body. The git server has another secret than webhook.secret-file"
    )]
    Mismatch { header: &'static str },
    #[error(
        "webhook.secret-file is empty, so that no call can be verified. Found again, or write one"
    )]
    NoSecret,
}

/// Checks a call. Every proof that it carries has to hold. Takes the same time for each wrong one.
///
/// `header` looks a header up by its lower-case name.
///
/// # Errors
/// The call can't be shown to come from a holder of `secret`.
pub fn verify<'a>(
    secret: &Secret,
    header: impl Fn(&str) -> Option<&'a [u8]>,
    body: &[u8],
) -> Result<(), WebhookError> {
    if secret.expose().is_empty() {
        return Err(WebhookError::NoSecret);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let mut proofs = 0;
    for (name, prefix) in SIGNATURES {
        let Some(value) = header(name) else { continue };
        let signature = value
            .strip_prefix(prefix.as_bytes())
            .and_then(unhex)
            .ok_or(WebhookError::Malformed { header: name })?;
        hmac::verify(&key, body, &signature)
            .map_err(|_| WebhookError::Mismatch { header: name })?;
        proofs += 1;
    }
    if let Some(token) = header(GITLAB_TOKEN) {
        // Comparing MACs of both sides takes the same time wherever they differ.
        let ours = hmac::sign(&key, secret.expose());
        hmac::verify(&key, token, ours.as_ref()).map_err(|_| WebhookError::Mismatch {
            header: GITLAB_TOKEN,
        })?;
        proofs += 1;
    }
    if proofs == 0 {
        Err(WebhookError::Unsigned)
    } else {
        Ok(())
    }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
        }
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of docs.github.com, "Validating webhook deliveries".
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const HEX: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn check(headers: &[(&str, &str)], body: &[u8]) -> Result<(), WebhookError> {
        let secret = Secret::new(SECRET.as_bytes().to_vec());
        let find = |name: &str| {
            headers
                .iter()
                .find(|(header, _)| *header == name)
                .map(|(_, value)| value.as_bytes())
        };
        verify(&secret, find, body)
    }

    #[test]
    fn each_git_server_is_verified_in_its_own_way() {
        let github = format!("sha256={HEX}");
        assert_eq!(check(&[("x-hub-signature-256", &github)], BODY), Ok(()));
        for name in [
            "x-forgejo-signature",
            "x-gitea-signature",
            "x-gogs-signature",
        ] {
            assert_eq!(check(&[(name, HEX)], BODY), Ok(()));
        }
        assert_eq!(check(&[("x-gitlab-token", SECRET)], BODY), Ok(()));
        assert_eq!(
            check(
                &[("x-hub-signature-256", &github), ("x-gitea-signature", HEX)],
                BODY
            ),
            Ok(())
        );
    }

    #[test]
    fn a_call_without_a_good_proof_is_refused() {
        let github = format!("sha256={HEX}");
        let header = "x-hub-signature-256";
        assert_eq!(check(&[], BODY), Err(WebhookError::Unsigned));
        assert_eq!(
            check(&[(header, &github)], b"Hello"),
            Err(WebhookError::Mismatch { header })
        );
        let short = format!("sha256={}", HEX.get(..62).unwrap());
        assert_eq!(
            check(&[(header, &short)], BODY),
            Err(WebhookError::Mismatch { header })
        );
        for bad in [HEX, "sha256=xyz", "sha256=abc", "sha1=ab", "sha256=+1"] {
            assert_eq!(
                check(&[(header, bad)], BODY),
                Err(WebhookError::Malformed { header }),
                "{bad}"
            );
        }
        let header = "x-gitlab-token";
        for bad in [
            "",
            "It's a Secret to Everybod",
            "It's a Secret to Everybody ",
        ] {
            assert_eq!(
                check(&[(header, bad)], BODY),
                Err(WebhookError::Mismatch { header })
            );
        }
    }

    #[test]
    fn one_good_proof_does_not_make_up_for_a_bad_one() {
        let github = format!("sha256={HEX}");
        let refused = check(
            &[
                ("x-hub-signature-256", &github),
                ("x-gitlab-token", "wrong"),
            ],
            BODY,
        );
        assert_eq!(
            refused,
            Err(WebhookError::Mismatch {
                header: "x-gitlab-token"
            })
        );
    }

    #[test]
    fn an_empty_secret_verifies_nothing() {
        let empty = Secret::new(Vec::new());
        let verified = verify(
            &empty,
            |name| (name == "x-gitlab-token").then_some(&b""[..]),
            b"",
        );
        assert_eq!(verified, Err(WebhookError::NoSecret));
    }
}
