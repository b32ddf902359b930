//! The few messages of etcd's gRPC API that are used (etcd, `api/etcdserverpb/rpc.proto`), and a unary call of it.
//!
//! k3s serves nothing but gRPC on its client port (since 1.26), so the JSON gateway is no way to its other members.

use prost::Message;
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, TE};

use super::EtcdError;

/// A message's length, and whether it is compressed, come before it.
const PREFIX_BYTES: usize = 5;

/// What is asked, where, and what comes back.
pub trait Call: Message {
    const PATH: &'static str;
    type Answer: Message + Default;
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberListRequest {
    /// Whether a quorum has to agree on the list; else it is the asked member's own.
    #[prost(bool, tag = "1")]
    pub linearizable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberList {
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// A member as a list has it. One that was added and has not started yet has no name and no client URL.
#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// What each answer says of who gave it.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(uint64, tag = "2")]
    pub member: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// 0: it knows of none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    #[prost(uint64, tag = "7")]
    pub raft_applied_index: u64,
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    #[prost(bool, tag = "10")]
    pub is_learner: bool,
}

/// Asks for all alarms: that is what the fields that are left out mean.
#[derive(Clone, PartialEq, Message)]
pub struct AlarmRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct Alarms {
    #[prost(message, repeated, tag = "2")]
    pub alarms: Vec<Alarm>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Alarm {
    #[prost(uint64, tag = "1")]
    pub member: u64,
    #[prost(enumeration = "AlarmKind", tag = "2")]
    pub kind: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AlarmKind {
    None = 0,
    NoSpace = 1,
    Corrupt = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct MoveLeaderRequest {
    #[prost(uint64, tag = "1")]
    pub target: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct MoveLeaderAnswer {}

/// Reads one key.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// By the asked member's own data: it needs no quorum, and may be old.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct MemberRemoveRequest {
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// The members that are left.
#[derive(Clone, PartialEq, Message)]
pub struct MemberRemoveAnswer {
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

impl Call for MemberRemoveRequest {
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberRemove";
    type Answer = MemberRemoveAnswer;
}

impl Call for MemberListRequest {
    const PATH: &'static str = "/etcdserverpb.Cluster/MemberList";
    type Answer = MemberList;
}

impl Call for StatusRequest {
    const PATH: &'static str = "/etcdserverpb.Maintenance/Status";
    type Answer = Status;
}

impl Call for RangeRequest {
    const PATH: &'static str = "/etcdserverpb.KV/Range";
    type Answer = Range;
}

impl Call for AlarmRequest {
    const PATH: &'static str = "/etcdserverpb.Maintenance/Alarm";
    type Answer = Alarms;
}

impl Call for MoveLeaderRequest {
    const PATH: &'static str = "/etcdserverpb.Maintenance/MoveLeader";
    type Answer = MoveLeaderAnswer;
}

impl Alarm {
    /// As etcd writes it.
    pub fn name(&self) -> String {
        match AlarmKind::try_from(self.kind) {
            Ok(AlarmKind::None) => "NONE".to_owned(),
            Ok(AlarmKind::NoSpace) => "NOSPACE".to_owned(),
            Ok(AlarmKind::Corrupt) => "CORRUPT".to_owned(),
            Err(_) => format!("alarm {}", self.kind),
        }
    }
}

/// One unary call to the member at `url`. `client` speaks HTTP/2.
pub async fn call<C: Call>(client: &Client, url: &str, asked: &C) -> Result<C::Answer, EtcdError> {
    let unreachable = |source| EtcdError::Unreachable {
        url: url.to_owned(),
        source,
    };
    let refused = |message| EtcdError::Refused {
        url: url.to_owned(),
        path: C::PATH,
        message,
    };
    let answer = client
        .post(format!("{}{}", url.trim_end_matches('/'), C::PATH))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(framed(asked))
        .send()
        .await
        .map_err(unreachable)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(refused(status.to_string()));
    }
    let headers = answer.headers().clone();
    let body = answer.bytes().await.map_err(unreachable)?;
    // A call that failed has no message, and its reason in the first headers.
    let message = unframed(&body).ok_or_else(|| refused(reason(&headers)))?;
    C::Answer::decode(message).map_err(|error| refused(error.to_string()))
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    framed
}

/// `None` where there is no whole, plain message.
fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES)?;
    let [0, length @ ..] = prefix else {
        return None;
    };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    message.get(..usize::try_from(length).ok()?)
}

fn reason(headers: &HeaderMap) -> String {
    let of = |name| headers.get(name)?.to_str().ok();
    match (of("grpc-status"), of("grpc-message")) {
        (_, Some(message)) if !message.is_empty() => message.to_owned(),
        (Some(status), _) => format!("gRPC status {status}"),
        (None, _) => "no answer in gRPC".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_out_of_its_frame_and_nothing_else_does() {
        let asked = MoveLeaderRequest { target: u64::MAX };
        let framed = framed(&asked);
        let message = unframed(&framed).unwrap();
        assert_eq!(MoveLeaderRequest::decode(message), Ok(asked));
        let mut compressed = framed.clone();
        compressed[0] = 1;
        assert_eq!(unframed(&compressed), None);
        assert_eq!(unframed(&framed[..framed.len() - 1]), None);
        assert_eq!(unframed(&framed[..3]), None);
        assert_eq!(unframed(&[]), None);
    }

    #[test]
    fn a_refusal_is_told_in_etcd_s_words_where_there_are_any() {
        let mut headers = HeaderMap::new();
        assert_eq!(reason(&headers), "no answer in gRPC");
        headers.insert("grpc-status", "14".parse().unwrap());
        assert_eq!(reason(&headers), "gRPC status 14");
        headers.insert("grpc-message", "etcdserver: no leader".parse().unwrap());
        assert_eq!(reason(&headers), "etcdserver: no leader");
    }
}
