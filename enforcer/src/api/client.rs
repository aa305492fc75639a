// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the enforcer reaches the API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task;
use std::time::Duration;

use axum::http::{HeaderValue, Request, Response, header};
use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use kube::client::{Body, ClientBuilder};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout};
use tower::Service;

use super::traffic::Counting;

/// How the enforcer names itself to the API server.
const USER_AGENT: &str = concat!("podgate-enforcer/", env!("CARGO_PKG_VERSION"));

/// How often it is looked whether the files that say how to reach the API server have changed. A watch that is refused
/// begins anew within half a minute, so both together take less than one.
const LOOK: Duration = Duration::from_secs(10);

/// How long what could not be used is left alone at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How long a client may take to be made. A credential plugin that a kubeconfig names runs meanwhile.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);

/// How many runs of credential plugins may hang before what the files say anew is not tried any more.
const MOST_HANGING: usize = 3;

/// How many requests may wait for an answer, or for the credential plugin that kube runs for each when a token is at its end.
const MOST_WAITING: usize = 256;

/// Why there is no client. None of this mends itself: an API server that is not reached is no reason.
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
    /// A credential plugin does not end, as a rule.
    #[error(
        "make a client of the API server at {server}: it takes longer than {} s; see to the credential plugin (exec) of the kubeconfig",
        CLIENT_TIMEOUT.as_secs()
    )]
    Late {
        /// The server.
        server: String,
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
    let running = Arc::new(());
    let first = client(kubeconfig.as_deref(), &running).await?;
    tracing::info!(
        namespace = first.default_namespace(),
        "the source is an API server"
    );
    let namespace = first.default_namespace().to_owned();
    let (current, latest) = watch::channel(Current::of(first));
    tokio::spawn(keep_current(kubeconfig, said, look, current, running));
    Ok(Client::new(Latest(latest), namespace))
}

/// A client by what the files say now.
async fn client(kubeconfig: Option<&Path>, running: &Arc<()>) -> Result<Client, ConnectError> {
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
    match timeout(CLIENT_TIMEOUT, build_client(config, running.clone())).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(source)) => Err(ConnectError::Client { server, source }),
        Err(_) => Err(ConnectError::Late { server }),
    }
}

/// On a thread of its own, which the end of the process does not wait for: kube runs a credential plugin synchronously.
async fn build_client(config: Config, running: Arc<()>) -> Result<Client, Box<kube::Error>> {
    let (made_in, made) = oneshot::channel();
    let runtime = Handle::current();
    let make = move || {
        let _running = running;
        let _entered = runtime.enter();
        let builder = ClientBuilder::try_from(config).map_err(Box::new);
        // The other end gives up when it takes too long.
        drop(made_in.send(builder.map(|builder| builder.with_layer(&Counting).build())));
    };
    let service = |error| Box::new(kube::Error::Service(error));
    let thread = std::thread::Builder::new().name("credentials".into());
    thread.spawn(make).map_err(|error| service(error.into()))?;
    made.await.map_err(|error| service(error.into()))?
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
    running: Arc<()>,
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
        let is_due = again.is_some_and(|again| again <= Instant::now());
        let is_due = is_due || expires_soon(&current.borrow().client, look);
        // A plugin that hangs is not run once more for the same, and not for ever for something else.
        let hanging = Arc::strong_count(&running) - 1;
        if now == said && !(is_due && hanging == 0) || hanging > MOST_HANGING {
            continue;
        }
        if now != said {
            pause = look;
        }
        said = now;
        match client(kubeconfig.as_deref(), &running).await {
            Ok(client) => {
                unusable.set(0);
                wrong.clear();
                (pause, again) = (look, None);
                tracing::info!(
                    "the credentials or certificates for the API server have changed; they are in use"
                );
                current.send_replace(Current::of(client));
            }
            Err(error) => {
                unusable.set(1);
                let error = format!("{:#}", anyhow::Error::from(error));
                if error != wrong {
                    tracing::error!(
                        error,
                        "the files that say how to reach the API server have changed and cannot be used; the former credentials stay, and it is tried again"
                    );
                }
                wrong = error;
                again = Some(Instant::now() + pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Whether the certificate of this client, which a credential plugin gave, is at its end when it is looked again.
fn expires_soon(client: &Client, look: Duration) -> bool {
    let until = client.valid_until().as_ref();
    until.is_some_and(|until| *until <= Timestamp::now() + look * 2)
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

/// A client, and room for the requests that wait for it.
#[derive(Clone)]
struct Current {
    client: Client,
    room: Arc<Semaphore>,
}

impl Current {
    fn of(client: Client) -> Self {
        let room = Arc::new(Semaphore::new(MOST_WAITING));
        Self { client, room }
    }
}

/// Sends every request by the client of that moment.
///
/// In a task of its own, which goes on when nobody waits for the answer any more: kube runs a credential plugin while it holds the
/// token's lock. Given up, the request would let go of the lock and leave the plugin behind, and the next one would run another.
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
        let Current { client, room } = self.0.borrow().clone();
        Box::pin(async move {
            let failed = |error: &str| kube::Error::Service(error.into());
            let room = room.try_acquire_owned().map_err(|_| {
                failed("too many requests wait for an answer or for the credential plugin (exec) of the kubeconfig")
            })?;
            let answer = tokio::spawn(async move {
                let answer = client.send(request).await;
                drop(room);
                answer
            });
            answer
                .await
                .map_err(|_| failed("the task of the request ended by itself"))?
        })
    }
}

#[cfg(test)]
mod tests;
