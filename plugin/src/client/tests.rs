// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client against real sockets.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixListener},
    sync::mpsc,
    thread::JoinHandle,
};

use podgate_handoff::{AttachmentId, Envelope, MAX_FRAME, write_frame};
use tempfile::TempDir;

use super::*;

/// Long enough for any machine; no test waits for its end unless it says so.
const AMPLE: Duration = Duration::from_secs(30);
/// For tests in which the bound must be reached, and a request be sent before on a busy machine.
const SHORT: Duration = Duration::from_millis(400);

fn request() -> Request {
    Request::Add(AttachmentId {
        container_id: "c".into(),
        ifname: "eth0".into(),
    })
}

struct Place {
    directory: TempDir,
    socket: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cni.sock");
        Self { directory, socket }
    }

    fn enforcer(&self) -> Enforcer<'_> {
        Enforcer {
            socket: &self.socket,
            owner: Uid::current(),
        }
    }

    fn ask(&self, budget: Duration) -> Result<Reply, HandoffError> {
        self.enforcer().ask(&request(), budget, Patience::WaitForIt)
    }

    /// Serves one connection after the other: each reads a request and is given to the next of `answers`.
    fn serve(&self, answers: Vec<Box<dyn FnOnce(UnixStream) + Send>>) -> JoinHandle<()> {
        let listener = UnixListener::bind(&self.socket).unwrap();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let asked: Envelope<Request> = read_frame(&mut stream).unwrap();
                assert_eq!(
                    asked,
                    Envelope {
                        version: VERSION,
                        body: request()
                    }
                );
                answer(stream);
            }
        })
    }
}

fn replies(reply: Reply) -> Box<dyn FnOnce(UnixStream) + Send> {
    Box::new(move |mut stream| write_frame(&mut stream, reply).unwrap())
}

fn bytes(bytes: Vec<u8>) -> Box<dyn FnOnce(UnixStream) + Send> {
    Box::new(move |mut stream| stream.write_all(&bytes).unwrap())
}

fn frame_of(json: &str) -> Vec<u8> {
    let mut frame = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(json.as_bytes());
    frame
}

#[test]
fn every_reply_comes_through() {
    for reply in [
        Reply::InForce,
        Reply::Unknown,
        Reply::Done,
        Reply::Failed("no room".into()),
    ] {
        let place = Place::new();
        let server = place.serve(vec![replies(reply.clone())]);
        assert_eq!(place.ask(AMPLE).unwrap(), reply);
        server.join().unwrap();
    }
}

#[test]
fn a_missing_socket_is_waited_for_until_the_bound() {
    let place = Place::new();
    let error = place.ask(SHORT).unwrap_err();
    assert!(
        matches!(&error, HandoffError::Down { source, .. } if source.kind() == io::ErrorKind::NotFound),
        "{error}"
    );
}

#[test]
fn a_missing_directory_is_an_enforcer_that_is_down() {
    let place = Place::new();
    let socket = place.directory.path().join("none/cni.sock");
    let enforcer = Enforcer {
        socket: &socket,
        owner: Uid::current(),
    };
    assert!(matches!(
        enforcer.ask(&request(), SHORT, Patience::WaitForIt),
        Err(HandoffError::Down { .. })
    ));
}

#[test]
fn a_socket_that_nobody_serves_refuses_and_is_waited_for() {
    let place = Place::new();
    drop(UnixListener::bind(&place.socket).unwrap());
    let error = place.ask(SHORT).unwrap_err();
    assert!(
        matches!(&error, HandoffError::Down { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused),
        "{error}"
    );
}

#[test]
fn an_enforcer_that_starts_late_still_answers() {
    let place = Place::new();
    drop(UnixListener::bind(&place.socket).unwrap());
    assert!(
        place
            .enforcer()
            .ask(&request(), AMPLE, Patience::Once)
            .is_err(),
        "a dead socket is left behind"
    );
    thread::scope(|scope| {
        let asking = scope.spawn(|| place.ask(AMPLE));
        fs::remove_file(&place.socket).unwrap();
        place.serve(vec![replies(Reply::InForce)]).join().unwrap();
        assert_eq!(asking.join().unwrap().unwrap(), Reply::InForce);
    });
}

#[test]
fn an_enforcer_that_is_restarted_in_between_is_asked_again() {
    let place = Place::new();
    let server = place.serve(vec![
        bytes(vec![]),
        bytes(vec![0, 0]),
        replies(Reply::InForce),
    ]);
    assert_eq!(place.ask(AMPLE).unwrap(), Reply::InForce);
    server.join().unwrap();
}

#[test]
fn half_a_frame_is_no_reply() {
    let place = Place::new();
    let server = place.serve(vec![bytes(vec![0, 0, 0, 9, b'{'])]);
    let error = place
        .enforcer()
        .ask(&request(), AMPLE, Patience::Once)
        .unwrap_err();
    assert!(matches!(error, HandoffError::NoReply { .. }), "{error}");
    server.join().unwrap();
}

#[test]
fn an_enforcer_that_says_nothing_is_left_at_the_bound() {
    let place = Place::new();
    let (done, until_done) = mpsc::channel::<()>();
    let server = place.serve(vec![Box::new(move |_stream| until_done.recv().unwrap())]);
    let error = place.ask(SHORT).unwrap_err();
    assert!(
        matches!(&error, HandoffError::NoReply { source, .. } if source.kind() == io::ErrorKind::TimedOut),
        "{error}"
    );
    done.send(()).unwrap();
    server.join().unwrap();
}

#[test]
fn an_enforcer_whose_queue_is_full_is_left_at_the_bound() {
    let place = Place::new();
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::empty(),
        None,
    )
    .unwrap();
    nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(&place.socket).unwrap()).unwrap();
    nix::sys::socket::listen(&fd, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _first = UnixStream::connect(&place.socket).unwrap();
    assert!(matches!(place.ask(SHORT), Err(HandoffError::Down { .. })));
}

#[test]
fn another_version_is_not_tried_again() {
    for answer in [
        replies(Reply::UnknownVersion),
        bytes(frame_of(r#"{"version":2,"body":"in_force"}"#)),
        bytes(frame_of(r#"{"version":2,"body":{"something":"new"}}"#)),
    ] {
        let place = Place::new();
        let server = place.serve(vec![answer]);
        assert!(matches!(place.ask(AMPLE), Err(HandoffError::Version)));
        server.join().unwrap();
    }
}

#[test]
fn a_garbled_reply_is_not_tried_again() {
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes().to_vec();
    for answer in [
        too_long,
        frame_of("nonsense"),
        frame_of(r#"{"version":1,"body":"maybe"}"#),
        frame_of("{}"),
    ] {
        let place = Place::new();
        let server = place.serve(vec![bytes(answer)]);
        assert!(matches!(place.ask(AMPLE), Err(HandoffError::Garbled(_))));
        server.join().unwrap();
    }
}

#[test]
fn a_directory_to_which_others_may_write_is_not_trusted() {
    for mode in [0o770, 0o702, 0o777] {
        let place = Place::new();
        let _listener = UnixListener::bind(&place.socket).unwrap();
        fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(
            matches!(place.ask(AMPLE), Err(HandoffError::Untrusted { .. })),
            "{mode:o}"
        );
    }
}

#[test]
fn a_directory_of_another_user_is_not_trusted() {
    let place = Place::new();
    let _listener = UnixListener::bind(&place.socket).unwrap();
    let enforcer = Enforcer {
        socket: &place.socket,
        owner: Uid::from_raw(Uid::current().as_raw() + 1),
    };
    let error = enforcer
        .ask(&request(), AMPLE, Patience::WaitForIt)
        .unwrap_err();
    assert!(matches!(error, HandoffError::Untrusted { .. }), "{error}");
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_an_error_at_once() {
    let place = Place::new();
    let socket = place.directory.path().join("x".repeat(120));
    let enforcer = Enforcer {
        socket: &socket,
        owner: Uid::current(),
    };
    assert!(matches!(
        enforcer.ask(&request(), AMPLE, Patience::WaitForIt),
        Err(HandoffError::Untrusted { .. })
    ));
}
