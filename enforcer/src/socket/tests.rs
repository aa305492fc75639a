// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Blocking;
use std::sync::mpsc::{Receiver, channel};

use podgate_handoff::{AttachmentId, read_frame, write_frame};

use super::*;

const PATIENT: Limits = Limits {
    request: Duration::from_secs(10),
    reply: Duration::from_secs(10),
    look: Duration::from_secs(10),
};

fn own_uid() -> u32 {
    nix::unistd::Uid::effective().as_raw()
}

fn add() -> Request {
    Request::Add(AttachmentId {
        container_id: "c".into(),
        ifname: "eth0".into(),
    })
}

/// A socket that is being served in a directory of its own, and what it hands over.
struct Served {
    directory: tempfile::TempDir,
    handed_over: Receiver<Handoff>,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn new(uid: u32, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (out, handed_over) = channel();
        let guard = runtime.enter();
        let socket = Socket::bind(directory.path(), uid, limits).unwrap();
        drop(guard);
        runtime.spawn(socket.serve(move |handoff| out.send(handoff).map_err(|_| EngineGone)));
        Self {
            directory,
            handed_over,
            _runtime: runtime,
        }
    }

    fn connect(&self) -> Blocking {
        let stream = Blocking::connect(self.directory.path().join(NAME)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }
}

fn reply_on(stream: &mut Blocking) -> Reply {
    read_frame::<Reply>(stream).unwrap().body
}

fn closes(stream: &mut Blocking) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_request_is_handed_over_and_answered_with_what_comes_back() {
    let served = Served::new(own_uid(), PATIENT);
    for (request, reply) in [
        (add(), Reply::InForce),
        (add(), Reply::Unknown),
        (Request::Status, Reply::Failed("not synced".into())),
    ] {
        let mut stream = served.connect();
        write_frame(&mut stream, &request).unwrap();
        let handoff = served.handed_over.recv().unwrap();
        assert_eq!(handoff.request, request);
        handoff.reply.send(reply.clone()).unwrap();
        assert_eq!(reply_on(&mut stream), reply);
        assert!(closes(&mut stream));
    }
}

#[test]
fn a_slow_answer_to_one_holds_up_no_other() {
    let served = Served::new(own_uid(), PATIENT);
    let (mut slow, mut quick) = (served.connect(), served.connect());
    write_frame(&mut slow, add()).unwrap();
    let held = served.handed_over.recv().unwrap();
    write_frame(&mut quick, Request::Status).unwrap();
    let handoff = served.handed_over.recv().unwrap();
    handoff.reply.send(Reply::Done).unwrap();
    assert_eq!(reply_on(&mut quick), Reply::Done);
    held.reply.send(Reply::InForce).unwrap();
    assert_eq!(reply_on(&mut slow), Reply::InForce);
}

#[test]
fn another_version_is_told_so_whatever_its_body() {
    let served = Served::new(own_uid(), PATIENT);
    let mut stream = served.connect();
    let json = br#"{"version":7,"body":["who","knows"]}"#;
    stream
        .write_all(&u32::try_from(json.len()).unwrap().to_be_bytes())
        .unwrap();
    stream.write_all(json).unwrap();
    assert_eq!(reply_on(&mut stream), Reply::UnknownVersion);
}

#[test]
fn what_is_no_request_is_refused_without_the_engine() {
    let served = Served::new(own_uid(), PATIENT);
    let mut stream = served.connect();
    write_frame(&mut stream, "dance").unwrap();
    assert!(matches!(reply_on(&mut stream), Reply::Failed(why) if why.contains("dance")));
    for bytes in [&[0xff; 8][..], b"\0\0\0\x02{]"] {
        let mut stream = served.connect();
        stream.write_all(bytes).unwrap();
        assert!(closes(&mut stream));
    }
    assert!(served.handed_over.try_recv().is_err());
}

#[test]
fn another_user_gets_no_answer() {
    let served = Served::new(own_uid() + 1, PATIENT);
    let mut stream = served.connect();
    // The connection may be closed before this is written.
    drop(write_frame(&mut stream, Request::Status));
    assert!(closes(&mut stream));
    assert!(served.handed_over.try_recv().is_err());
}

#[test]
fn half_a_request_and_no_answer_have_their_limits() {
    const SOON: Duration = Duration::from_millis(20);
    let served = Served::new(
        own_uid(),
        Limits {
            request: SOON,
            ..PATIENT
        },
    );
    let mut half = served.connect();
    // The connection may be closed before this is written.
    drop(half.write_all(&[0, 0]));
    assert!(closes(&mut half));
    let served = Served::new(
        own_uid(),
        Limits {
            reply: SOON,
            ..PATIENT
        },
    );
    let mut unanswered = served.connect();
    write_frame(&mut unanswered, add()).unwrap();
    let held = served.handed_over.recv().unwrap();
    assert!(matches!(reply_on(&mut unanswered), Reply::Failed(why) if why.contains("busy")));
    drop(held);
}

#[test]
fn an_engine_that_drops_the_question_is_stopping() {
    let served = Served::new(own_uid(), PATIENT);
    let mut stream = served.connect();
    write_frame(&mut stream, add()).unwrap();
    drop(served.handed_over.recv().unwrap());
    assert!(matches!(reply_on(&mut stream), Reply::Failed(why) if why.contains("stopping")));
}

#[test]
fn the_socket_is_roots_alone_and_replaces_what_was_left_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    for _ in 0..2 {
        let socket = Socket::bind(directory.path(), own_uid(), PATIENT).unwrap();
        Blocking::connect(directory.path().join(NAME)).unwrap();
        drop(socket);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(directory.path()), 0o700);
    assert_eq!(mode(&directory.path().join(NAME)), 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_name_that_somebody_removed_or_took_is_taken_again() {
    let attentive = Limits {
        look: Duration::from_millis(20),
        ..PATIENT
    };
    let served = Served::new(own_uid(), attentive);
    let name = served.directory.path().join(NAME);
    for squatted in [false, true] {
        fs::remove_file(&name).unwrap();
        if squatted {
            fs::write(&name, "").unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            match Blocking::connect(&name) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        write_frame(&mut stream, Request::Status).unwrap();
        let handoff = served.handed_over.recv().unwrap();
        handoff.reply.send(Reply::Done).unwrap();
        assert_eq!(reply_on(&mut stream), Reply::Done);
    }
}
