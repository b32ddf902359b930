//! `git http-backend` behind a small CGI.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use tokio::io::AsyncWriteExt;

use super::*;

/// Serves the repositories in `root`. With `private`, every request is answered with 401.
#[derive(Clone)]
struct Server {
    root: PathBuf,
    private: bool,
}

async fn serve(root: PathBuf, private: bool) -> String {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new()
        .fallback(cgi)
        .with_state(Server { root, private });
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn cgi(State(server): State<Server>, request: Request) -> Response<Body> {
    if server.private {
        let answer = Response::builder().status(StatusCode::UNAUTHORIZED);
        return answer
            .header("WWW-Authenticate", "Basic realm=git")
            .body(Body::empty())
            .unwrap();
    }
    let header = |headers: &HeaderMap, name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut child = tokio::process::Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", &server.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header(&head.headers, "content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env(
            "HTTP_CONTENT_ENCODING",
            header(&head.headers, "content-encoding"),
        )
        .env("GIT_PROTOCOL", header(&head.headers, "git-protocol"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (written, output) = tokio::join!(
        async move { stdin.write_all(&body).await },
        child.wait_with_output()
    );
    written.ok();
    let output = output.unwrap().stdout;
    let end = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let mut answer = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        answer = match name {
            "Status" => answer.status(value[..3].parse::<u16>().unwrap()),
            name => answer.header(name, value),
        };
    }
    answer.body(Body::from(output[end + 4..].to_vec())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_fetches_and_every_fault_is_told_apart() {
    let world = World::new();
    let head = world.push("a", "one");
    let base = serve(world.dir.path().to_owned(), false).await;
    let fetch = async |url: String, token: Option<PathBuf>| {
        let dir = tempfile::tempdir_in(world.dir.path()).unwrap();
        let mut config = RepositoryConfig::at(url);
        config.token_file = token;
        Repository::open(config, dir.path()).unwrap().fetch().await
    };
    assert_eq!(fetch(format!("{base}/up.git"), None).await.unwrap(), head);

    let error = fetch(format!("{base}/none.git"), None).await.unwrap_err();
    assert!(
        matches!(error, RepoError::NotARepository { .. }),
        "{error:?}"
    );

    let private = serve(world.dir.path().to_owned(), true).await;
    let error = fetch(format!("{private}/up.git"), None).await.unwrap_err();
    assert!(matches!(error, RepoError::NotAccepted { .. }), "{error:?}");
    let token = world.dir.path().join("token");
    fs::write(&token, "hunter2\n").unwrap();
    let error = fetch(format!("{private}/up.git"), Some(token))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RepoError::NotAccepted { .. }),
        "no token in clear text: {error:?}"
    );
    assert!(
        !format!("{error} {error:?}").contains("hunter2"),
        "{error:?}"
    );

    let error = fetch("http://127.0.0.1:1/up.git".to_owned(), None)
        .await
        .unwrap_err();
    assert!(matches!(error, RepoError::Unreachable { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fetch_lets_the_next_one_go_on() {
    let world = World::new();
    let head = world.push("a", "one");
    let base = serve(world.dir.path().to_owned(), false).await;
    let repository = world.open(RepositoryConfig::at(format!("{base}/up.git")));
    let dropped = tokio::time::timeout(Duration::ZERO, repository.fetch()).await;
    assert!(dropped.is_err());
    assert_eq!(repository.fetch().await.unwrap(), head);
}
