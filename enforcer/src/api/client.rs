//! How the enforcer reaches the API server.

use std::path::{Path, PathBuf};

use axum::http::{HeaderValue, header};
use kube::client::ClientBuilder;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::traffic::Counting;

/// How the enforcer names itself to the API server.
const USER_AGENT: &str = concat!("podgate-enforcer/", env!("CARGO_PKG_VERSION"));

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
/// is sent yet.
///
/// # Errors
/// When that says nothing that can be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
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
    tracing::info!(server, "the source is an API server");
    let builder = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client {
        server,
        source: Box::new(error),
    })?;
    Ok(builder.with_layer(&Counting).build())
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}
