// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Credentials that a program of the kubeconfig gives (`users[].user.exec`, client.authentication.k8s.io/v1).
//!
//! It is run here and not by kube: kube runs it without an end, once more for each request that finds a token old, and a program
//! that hangs is left behind by each request that is given up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long the program may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Bytes that it may print of credentials.
const MOST: u64 = 1 << 20;

/// Bytes of its stderr that an error quotes, the last ones.
const QUOTED: usize = 500;

/// How long stderr is read after the program has ended. A process that it leaves behind may keep the pipe open.
const LAST: Duration = Duration::from_millis(100);

/// Why it gives none.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The kubeconfig names none.
    #[error("the kubeconfig names no command")]
    NoCommand,
    /// It wants to ask a person.
    #[error("{0} wants a terminal (interactiveMode: Always), and there is none")]
    Interactive(String),
    /// It cannot be run, or not be heard.
    #[error("run {command}")]
    Run {
        /// The program.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not end.
    #[error("{command} takes longer than {} s, and was killed: {said}", PATIENCE.as_secs())]
    Late {
        /// The program.
        command: String,
        /// The end of its stderr.
        said: String,
    },
    /// It says that it failed.
    #[error("{command} failed ({status}): {said}")]
    Failed {
        /// The program.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr.
        said: String,
    },
    /// Its stdout is no credential. It may hold a secret all the same, and is not quoted.
    #[error("{command} printed no ExecCredential with {what}")]
    Meaningless {
        /// The program.
        command: String,
        /// What it lacks.
        what: &'static str,
    },
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<Timestamp>,
}

/// Puts in place of the program what it gives, if there is one. Until when that is good, if it says so.
///
/// # Errors
/// When it gives nothing that can be used.
pub(super) async fn resolve(auth: &mut AuthInfo) -> Result<Option<Timestamp>, ExecError> {
    let Some(exec) = auth.exec.take() else {
        return Ok(None);
    };
    // These go before it.
    if auth.token.is_some() || auth.token_file.is_some() || auth.username.is_some() {
        return Ok(None);
    }
    let command = exec.command.clone().ok_or(ExecError::NoCommand)?;
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(ExecError::Interactive(command));
    }
    let said = run(&exec, &command).await?;
    let meaningless = |what| ExecError::Meaningless {
        command: command.clone(),
        what,
    };
    // Some print YAML, of which JSON is a part.
    let text = String::from_utf8_lossy(&said);
    let credential: ExecCredential =
        serde_saphyr::from_str(&text).map_err(|_| meaningless("a status"))?;
    let given = credential.status;
    let some = |text: Option<String>| {
        text.map(|it| it.trim().to_owned())
            .filter(|it| !it.is_empty())
    };
    let (token, certificate) = (some(given.token), some(given.client_certificate_data));
    let key = some(given.client_key_data);
    if token.is_none() && certificate.is_none() {
        return Err(meaningless("a token or a certificate"));
    }
    if certificate.is_some() && key.is_none() {
        return Err(meaningless("a key beside its certificate"));
    }
    let base64 = |pem: Option<String>| pem.map(|pem| ByteString(pem.into_bytes()));
    // kube's secrets are made as they are read.
    let read: AuthInfo = serde_json::from_value(json!({
        "token": token,
        "client-certificate-data": base64(certificate),
        "client-key-data": base64(key),
    }))
    .map_err(|_| meaningless("a token or a certificate that can be used"))?;
    auth.token = read.token;
    if read.client_certificate_data.is_some() {
        (auth.client_certificate, auth.client_key) = (None, None);
        auth.client_certificate_data = read.client_certificate_data;
        auth.client_key_data = read.client_key_data;
    }
    Ok(given.expiration_timestamp)
}

/// What the program prints. Its process group is killed when it takes too long, or when this future is dropped.
async fn run(exec: &ExecConfig, command: &str) -> Result<Vec<u8>, ExecError> {
    let failed = |source| ExecError::Run {
        command: command.to_owned(),
        source,
    };
    let mut program = Command::new(command);
    program.args(exec.args.iter().flatten());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            program.env(name, value);
        }
    }
    let mut info = json!({
        "apiVersion": exec.api_version,
        "kind": "ExecCredential",
        "spec": {"interactive": false},
    });
    if let Some(cluster) = exec.cluster.as_ref().filter(|_| exec.provide_cluster_info) {
        info["spec"]["cluster"] = json!(cluster);
    }
    program
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut group = Group(program.spawn().map_err(failed)?);
    let (out, mut stderr) = (group.0.stdout.take(), group.0.stderr.take());
    let mut said = VecDeque::new();
    let ended = timeout(PATIENCE, async {
        let given = async {
            let out = beginning(out).await?;
            Ok((group.0.wait().await?, out))
        };
        tokio::select! {
            given = given => given,
            never = keep_end(&mut stderr, &mut said) => match never {},
        }
    })
    .await;
    drop(timeout(LAST, keep_end(&mut stderr, &mut said)).await);
    let said: Vec<u8> = said.into();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let command = command.to_owned();
    match ended {
        Err(_) => Err(ExecError::Late { command, said }),
        Ok(Err(source)) => Err(ExecError::Run { command, source }),
        Ok(Ok((status, out))) if status.success() => Ok(out),
        Ok(Ok((status, _))) => Err(ExecError::Failed {
            command,
            status,
            said,
        }),
    }
}

/// The first bytes of what a program prints.
async fn beginning(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(MOST).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Reads stderr and keeps its end; never completes.
async fn keep_end(
    from: &mut Option<impl AsyncRead + Unpin>,
    said: &mut VecDeque<u8>,
) -> Infallible {
    let mut bytes = [0; 4096];
    while let Some(open) = from {
        match open.read(&mut bytes).await {
            Ok(count @ 1..) => said.extend(&bytes[..count]),
            Ok(0) | Err(_) => *from = None,
        }
        said.drain(..said.len().saturating_sub(QUOTED));
    }
    std::future::pending().await
}

/// A program that is the first of its process group.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // It has no number any more when it was waited for.
        let number = self.0.id().and_then(|number| i32::try_from(number).ok());
        if let Some(number) = number {
            // It may have ended by itself.
            killpg(Pid::from_raw(number), Signal::SIGKILL).ok();
        }
    }
}
