// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the enforcer reaches the API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task;
use std::time::Duration;

use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use kube::client::{Body, ClientBuilder};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::Service;

use super::credentials::{self, ExecError};
use super::traffic::Counting;

/// How the enforcer names itself to the API server.
const USER_AGENT: &str = concat!("podgate-enforcer/", env!("CARGO_PKG_VERSION"));

/// How often it is looked whether the files that say how to reach the API server have changed. A watch that is refused
/// begins anew within half a minute, so both together take less than one.
const LOOK: Duration = Duration::from_secs(10);

/// How long what could not be used is left alone at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The same of a credential plugin, whose own server may be away.
const LONGEST_PAUSE_OF_PLUGIN: Duration = Duration::from_secs(60);

/// Why there is no client. An API server that is not reached is no reason.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file of `--kubeconfig` cannot be used.
    #[error("read the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KubeconfigError,
    },
    /// There is neither a kubeconfig nor a ServiceAccount.
    #[error(
        "find the API server: run in a pod with a ServiceAccount, or name a file with --kubeconfig"
    )]
    Infer(#[source] Box<InferConfigError>),
    /// The authority that is to vouch for the server has no certificate: a file that is being written, for one.
    #[error(
        "make a client of the API server at {server}: its certificate authority has no certificate"
    )]
    NoAuthority {
        /// The server.
        server: String,
    },
    /// An `auth-provider` runs a program for each request.
    #[error(
        "make a client of the API server at {server}: the kubeconfig's auth-provider runs a program (cmd-path); name it as exec instead"
    )]
    Provider {
        /// The server.
        server: String,
    },
    /// The token is no value of an HTTP header.
    #[error(
        "make a client of the API server at {server}: the token has a line end, or another character that no header has"
    )]
    Token {
        /// The server.
        server: String,
    },
    /// The credential plugin gives none.
    #[error(
        "make a client of the API server at {server}: see to the credential plugin (exec) of the kubeconfig"
    )]
    Plugin {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// The certificates or the credentials cannot be used.
    #[error("make a client of the API server at {server}")]
    Client {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client by `kubeconfig`, or by what kube finds: `KUBECONFIG`, `~/.kube/config`, the pod's ServiceAccount. Nothing
/// is sent yet. Follows the files that this comes from: what is asked after they have changed goes by what they say then.
///
/// # Errors
/// When that says nothing that can be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    connect_looking(kubeconfig, LOOK).await
}

async fn connect_looking(
    kubeconfig: Option<&Path>,
    look: Duration,
) -> Result<Client, ConnectError> {
    let kubeconfig = kubeconfig.map(Path::to_owned);
    // Before the client, so that no change falls between the two.
    let said = Said::now(kubeconfig.as_deref());
    let first = client(kubeconfig.as_deref()).await?;
    let namespace = first.client.default_namespace().to_owned();
    tracing::info!(namespace, "the source is an API server");
    let (current, latest) = watch::channel(first);
    tokio::spawn(keep_current(kubeconfig, said, look, current));
    Ok(Client::new(Latest(latest), namespace))
}

/// A client by what the files say now.
async fn client(kubeconfig: Option<&Path>) -> Result<Current, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path)
            .await
            .map_err(|source| ConnectError::Kubeconfig {
                path: path.to_owned(),
                source,
            })?,
        None => Config::infer()
            .await
            .map_err(|error| ConnectError::Infer(Box::new(error)))?,
    };
    let agent = (header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    config.headers.push(agent);
    let server = config.cluster_url.to_string();
    tracing::debug!(server, "a client of the API server is made");
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return Err(ConnectError::NoAuthority { server });
    }
    let auth = &mut config.auth_info;
    let provider = auth.auth_provider.as_ref();
    if provider.is_some_and(|provider| provider.config.contains_key("cmd-path")) {
        return Err(ConnectError::Provider { server });
    }
    let is_given = auth.exec.is_some();
    let until = match credentials::resolve(auth).await {
        Ok(until) => until,
        Err(source) => return Err(ConnectError::Plugin { server, source }),
    };
    // kube panics with what is no value of a header.
    let said = serde_json::to_value(&*auth).unwrap_or_default();
    let token = said.get("token").and_then(serde_json::Value::as_str);
    if token.is_some_and(|token| HeaderValue::from_str(token).is_err()) {
        return Err(ConnectError::Token { server });
    }
    let builder = ClientBuilder::try_from(config).map_err(|source| ConnectError::Client {
        server,
        source: Box::new(source),
    })?;
    Ok(Current {
        client: builder.with_layer(&Counting).build(),
        is_given,
        until,
        is_refused: Arc::default(),
    })
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}

/// Makes another client whenever the files say something else, until nobody uses it. While what they say cannot be used,
/// the last one stays, and it is tried again: a plugin or the server that it asks may be away for a while.
async fn keep_current(
    kubeconfig: Option<PathBuf>,
    mut said: Said,
    look: Duration,
    current: watch::Sender<Current>,
) {
    let unusable = metrics::gauge!("podgate_api_credentials_unusable");
    unusable.set(0);
    let mut wrong = String::new();
    let (mut pause, mut again) = (look, None);
    loop {
        tokio::select! {
            () = current.closed() => return,
            () = tokio::time::sleep(look) => {}
        }
        let now = Said::now(kubeconfig.as_deref());
        let (is_spent, longest) = {
            let current = current.borrow();
            (current.is_spent(look), current.longest_pause())
        };
        let is_due = match again {
            Some(again) => again <= Instant::now(),
            None => is_spent,
        };
        if now == said && !is_due {
            continue;
        }
        if now != said {
            pause = look;
        }
        said = now;
        let is_good = match client(kubeconfig.as_deref()).await {
            Ok(client) => {
                unusable.set(0);
                wrong.clear();
                tracing::info!("the API server is asked with new credentials or certificates");
                let is_spent = client.is_spent(look);
                current.send_replace(client);
                // A plugin may give what expires at once, each time.
                !is_spent
            }
            Err(error) => {
                unusable.set(1);
                let error = format!("{:#}", anyhow::Error::from(error));
                if error != wrong {
                    tracing::error!(
                        error,
                        "cannot use the kubeconfig, the ServiceAccount's files or the credential plugin; the credentials of before stay in use; retrying"
                    );
                }
                wrong = error;
                false
            }
        };
        (pause, again) = if is_good {
            (look, None)
        } else {
            ((pause * 2).min(longest), Some(Instant::now() + pause))
        };
    }
}

/// What is in the files that say how to reach the API server. kube reads tokens in files of their own (`tokenFile`, a
/// ServiceAccount's) again within a minute, unless the clock steps back.
#[derive(PartialEq, Eq)]
struct Said(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Said {
    fn now(kubeconfig: Option<&Path>) -> Self {
        let kubeconfigs = match kubeconfig {
            Some(path) => vec![path.to_owned()],
            None => found_by_kube(),
        };
        let mut files = kubeconfigs.clone();
        for path in &kubeconfigs {
            // One that cannot be read or understood names no others; that it changed is seen all the same.
            if let Ok(read) = Kubeconfig::read_from(path) {
                let users = read
                    .auth_infos
                    .into_iter()
                    .filter_map(|user| user.auth_info);
                let of_users = users
                    .flat_map(|user| [user.client_certificate, user.client_key, user.token_file]);
                let clusters = read.clusters.into_iter().filter_map(|of| of.cluster);
                let of_clusters = clusters.map(|cluster| cluster.certificate_authority);
                files.extend(of_users.chain(of_clusters).flatten().map(PathBuf::from));
            }
        }
        let content = |path: PathBuf| {
            let content = std::fs::read(&path).ok();
            (path, content)
        };
        Self(files.into_iter().map(content).collect())
    }
}

/// Where kube looks without `--kubeconfig`.
fn found_by_kube() -> Vec<PathBuf> {
    const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut files: Vec<PathBuf> = match std::env::var_os("KUBECONFIG") {
        Some(list) if !list.is_empty() => std::env::split_paths(&list).collect(),
        Some(_) | None => {
            let home = std::env::home_dir();
            home.map(|home| home.join(".kube/config"))
                .into_iter()
                .collect()
        }
    };
    files.extend(["ca.crt", "token"].map(|name| Path::new(SERVICE_ACCOUNT).join(name)));
    files
}

/// A client.
#[derive(Clone)]
struct Current {
    client: Client,
    /// Whether a plugin gave its credentials.
    is_given: bool,
    /// Until when they are good, if that is known.
    until: Option<Timestamp>,
    /// Whether the server has refused them.
    is_refused: Arc<AtomicBool>,
}

impl Current {
    /// Whether a plugin is to give others now: these are refused, or at their end when it is looked again. kube, too, takes a
    /// token for old a minute before.
    fn is_spent(&self, look: Duration) -> bool {
        let soon = Timestamp::now() + look * 2 + Duration::from_secs(60);
        let is_old = self.until.is_some_and(|until| until <= soon);
        self.is_given && (is_old || self.is_refused.load(Ordering::Relaxed))
    }

    fn longest_pause(&self) -> Duration {
        if self.is_given {
            LONGEST_PAUSE_OF_PLUGIN
        } else {
            LONGEST_PAUSE
        }
    }
}

/// Sends every request by the client of that moment.
#[derive(Clone)]
struct Latest(watch::Receiver<Current>);

impl Service<Request<Body>> for Latest {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Current {
            client, is_refused, ..
        } = self.0.borrow().clone();
        Box::pin(async move {
            let answer = client.send(request).await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                is_refused.store(true, Ordering::Relaxed);
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests;
