//! An API server that answers some requests with a fault, as one under load or behind a broken proxy does.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;

/// Which request gets which status instead of its answer.
type Rule = Box<dyn Fn(&Method, &str) -> Option<StatusCode> + Send>;

#[derive(Clone, Default)]
pub struct Proxy {
    rule: Arc<Mutex<Option<Rule>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A client whose requests go through it.
    pub fn client(&self, server: &Client) -> Client {
        let (proxy, server) = (self.clone(), server.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (proxy, server) = (proxy.clone(), server.clone());
            async move {
                let path = request.uri().path().to_owned();
                let fault = proxy.answer(request.method(), &path);
                match fault {
                    Some(status) => Ok(fault_of(status)),
                    None => server.send(request).await.map_err(tower::BoxError::from),
                }
            }
        });
        Client::new(service, "default")
    }

    pub fn fail(&self, rule: impl Fn(&Method, &str) -> Option<StatusCode> + Send + 'static) {
        *self.rule.lock().unwrap() = Some(Box::new(rule));
    }

    pub fn mend(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// How many requests for exactly this path it has seen.
    pub fn count(&self, path: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|p| p.as_str() == path).count()
    }

    fn answer(&self, method: &Method, path: &str) -> Option<StatusCode> {
        self.seen.lock().unwrap().push(path.to_owned());
        let rule = self.rule.lock().unwrap();
        rule.as_ref().and_then(|rule| rule(method, path))
    }
}

fn fault_of(status: StatusCode) -> Response<Body> {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"planted","reason":"Planted","code":{}}}"#,
        status.as_u16()
    );
    let mut response = Response::new(Body::from(body.into_bytes()));
    *response.status_mut() = status;
    response
}
