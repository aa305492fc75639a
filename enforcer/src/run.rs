// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The wiring: who is started, in which order, and how it ends.

use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use podgate_datapath::{Paths, Sizes, release};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;

use crate::admin;
use crate::api;
use crate::args::{ApiServer, Config, Source};
use crate::condition::Condition;
use crate::conntrack_gc;
use crate::descriptors::Descriptors;
use crate::engine::{Engine, EngineConfig, Event, Kernel};
use crate::events;
use crate::gone::EngineGone;
use crate::guard;
use crate::instance_lock::InstanceLock;
use crate::manifests::{self, Snapshot};
use crate::networkpolicies;
use crate::node::{self, Noticed};
use crate::policyendpoints;
use crate::socket::{Limits, Socket};
use crate::source::{Freshness, News, Objects, SourceStatus, Update};
use crate::watched::{Ends, Tell};

/// Only root may hand over attachments.
const ROOT: u32 = 0;

/// How long the engine may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// Runs the enforcer until it is asked to stop. What it has put in force stays.
///
/// # Errors
/// When it cannot start, or its engine ends by itself.
#[expect(
    clippy::too_many_lines,
    reason = "one step after the other, each with what those before it have made"
)]
pub async fn run(config: Config) -> Result<()> {
    let Config {
        source,
        run_dir,
        bpffs_dir,
        node_name,
        services,
        foreign,
        metrics,
        health,
        flow_table_size,
        max_flows_per_pod,
        rooms,
        log_level: _,
    } = config;
    release::require()?;
    tracing::info!(node = node_name, ?source, "starting");
    let recorder = admin::install_recorder()?;
    let descriptors = Descriptors::raise()?;
    let (condition_in, condition) = watch::channel(Condition::Starting(Vec::new()));
    let (events_in, events) = channel();
    let (stop_in, stop) = watch::channel(());
    let stopped = || {
        let mut stop = stop.clone();
        async move { drop(stop.changed().await) }
    };
    let paths = Paths {
        run: run_dir,
        bpffs: bpffs_dir,
    };
    // Asked for before the listeners, whose addresses the other enforcer may have, and waited for behind them.
    let life = InstanceLock::ask(&paths)?;
    // Health first: whoever waits for us learns that we are starting.
    let (freshness_in, freshness) = watch::channel(Freshness::new());
    let health_pages = admin::health(condition.clone(), freshness.clone());
    let count = events_in.clone();
    let metrics_pages = admin::metrics(recorder, freshness, move |done| {
        // Dropped with its answer when the engine is gone; the page shows what is known.
        drop(count.send(Event::Count(done)));
    });
    for (name, address, pages) in [
        ("health", health, health_pages),
        ("metrics", metrics, metrics_pages),
    ] {
        admin::listen(name, address, pages, descriptors, stopped())
            .await
            .map_err(|error| life.explain(error))?;
    }

    let mut asked_to_stop = Box::pin(asked_to_stop()?);
    let mut life = tokio::select! {
        life = life.granted() => life?,
        () = &mut asked_to_stop => return Ok(()),
    };
    let sizes = with_flows(sizes_of(&paths), flow_table_size, max_flows_per_pod)?;
    let node = node::follow(telling(&events_in, Event::Node))?;
    let guard = guard::follow(telling(&events_in, Event::Guard))?;
    let socket = Socket::bind(&paths.run, ROOT, Limits::default())?;
    let serving = tokio::spawn(socket.serve(telling(&events_in, Event::Handoff)));
    let (questions_in, questions) = unbounded_channel();
    let answers_questions = match source {
        Source::Manifests(_) => false,
        Source::NetworkPolicies(_) | Source::PolicyEndpoints(_) => true,
    };
    let ends = Ends {
        tell: Box::new(telling(&events_in, Event::Source)),
        questions,
        freshness: freshness_in,
        rooms,
    };
    let following = follow_source(
        source,
        node_name.clone(),
        paths.clone(),
        ends,
        condition.clone(),
    );
    let source = tokio::spawn(following);
    let flows = conntrack_gc::start(paths.clone())?;
    let config = EngineConfig {
        node: Kernel::new(paths, events_in.clone())?,
        sizes,
        node_name,
        services,
        foreign,
        node_addresses: node.addresses,
        guard: guard.guard,
        questions: answers_questions.then_some(questions_in),
    };
    let mut engine = start_engine(config, condition_in, events)?;
    // Not once policy is in force: the API server may be a pod that the kubelet starts after this unit.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!(%error, "systemd does not hear that the enforcer is ready, and ends it after TimeoutStartSec");
    }

    let ended = tokio::select! {
        () = &mut asked_to_stop => None,
        // An engine that ends by itself has a reason, and the source then ends for no other.
        _ = &mut engine.ended => Some(Ok(())),
        source = source => Some(source.context("follow the source").flatten()),
        ended = life.keep(|| drop(events_in.send(Event::Node(Noticed::Lost)))) => Some(ended),
        // Both run for life: whoever starts us anew mends it, and until then nothing is decided otherwise.
        _ = node.alive => Some(Err(anyhow!("the thread that listens to netlink ended by itself"))),
        _ = guard.alive => Some(Err(anyhow!("the thread that keeps the guard ended by itself"))),
        _ = flows => Some(Err(anyhow!("the thread that collects flows ended by itself"))),
    };
    serving.abort();
    end(engine, &events_in).await?;
    stop_in.send_replace(());
    drop(life);
    match ended {
        None => Ok(()),
        Some(Ok(())) => bail!("the engine or its source ended by itself; what was in force stays"),
        Some(Err(error)) => Err(error),
    }
}

/// What tells the engine of one kind of thing.
fn telling<T, F: Fn(T) -> Event + Clone>(
    events: &Sender<Event>,
    event: F,
) -> impl Fn(T) -> Result<(), EngineGone> + Clone + use<T, F> {
    let events = events.clone();
    move |what| events.send(event(what)).map_err(|_| EngineGone)
}

/// Has the engine end, and waits for that.
async fn end(engine: Running, events: &Sender<Event>) -> Result<()> {
    // An engine that is gone needs not be told.
    drop(events.send(Event::Stop));
    let joined = tokio::task::spawn_blocking(move || engine.thread.join());
    match tokio::time::timeout(ENDING, joined).await {
        Ok(Ok(Ok(result))) => result?,
        Ok(other) => anyhow::bail!("the engine ended badly: {other:?}"),
        Err(_) => tracing::warn!(
            "the engine did not end in time; what it had begun is completed by the next start"
        ),
    }
    Ok(())
}

/// The sizes of tables that the last enforcer told the plugin. They are told anew with the next table set, so a file
/// that cannot be read costs no more than tables that grow again.
fn sizes_of(paths: &Paths) -> Sizes {
    Sizes::read(paths).unwrap_or_else(|error| {
        let error = anyhow::Error::from(error);
        tracing::warn!(
            error = format!("{error:#}"),
            "tables begin with their default sizes"
        );
        Sizes::default()
    })
}

/// The sizes with room for so many flows, as many as before if nobody says it, and so many for one pod.
fn with_flows(
    mut sizes: Sizes,
    table: Option<NonZeroU32>,
    of_one: Option<NonZeroU32>,
) -> Result<Sizes> {
    sizes.flows = table.map_or(sizes.flows, NonZeroU32::get);
    sizes.flows_per_attachment = match of_one.map(NonZeroU32::get) {
        None => Sizes::flows_of_one(sizes.flows),
        Some(flows) if flows <= sizes.flows / 2 => flows,
        Some(flows) => bail!(
            "--max-flows-per-pod {flows} is more than half of the {} flows that the node tracks, and the other half is \
             shared out among all pods: give --conntrack-cache-table-size {} or more",
            sizes.flows,
            u64::from(flows) * 2,
        ),
    };
    Ok(sizes)
}

/// The engine's thread, and a sign that it has ended.
struct Running {
    thread: std::thread::JoinHandle<Result<()>>,
    ended: tokio::sync::oneshot::Receiver<()>,
}

fn start_engine(
    config: EngineConfig<Kernel>,
    condition: watch::Sender<Condition>,
    events: Receiver<Event>,
) -> Result<Running> {
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let _alive = alive;
            if let Some(engine) = Engine::when_synced(config, condition, &events)? {
                engine.run(&events);
            }
            Ok(())
        })
        .context("start the engine's thread")?;
    Ok(Running { thread, ended })
}

/// Tells the engine what the source says, until the engine has ended.
async fn follow_source(
    source: Source,
    node_name: String,
    paths: Paths,
    ends: Ends,
    condition: watch::Receiver<Condition>,
) -> Result<()> {
    match source {
        Source::Manifests(directory) => {
            let kept = paths.run.join("manifests");
            let watch = move || manifests::watch(directory, kept, ends.rooms);
            let snapshots = tokio::task::spawn_blocking(watch)
                .await?
                .context("read the source")?;
            follow_manifests(snapshots, ends.tell).await
        }
        Source::NetworkPolicies(ApiServer { kubeconfig }) => {
            let client = api::connect(kubeconfig.as_deref()).await?;
            tokio::spawn(events::write(client.clone(), node_name, condition));
            networkpolicies::run(client, ends).await
        }
        Source::PolicyEndpoints(ApiServer { kubeconfig }) => {
            let client = api::connect(kubeconfig.as_deref()).await?;
            tokio::spawn(events::write(client.clone(), node_name.clone(), condition));
            policyendpoints::run(client, &node_name, ends).await
        }
    }
}

async fn follow_manifests(mut snapshots: watch::Receiver<Snapshot>, tell: Tell) -> Result<()> {
    let mut known = Objects::default();
    loop {
        let Snapshot {
            objects,
            warnings,
            errors,
        } = snapshots.borrow_and_update().clone();
        let update = Update {
            changes: known.differences(&objects),
            wrong: SourceStatus {
                errors: errors.iter().map(ToString::to_string).collect(),
                warnings,
            },
        };
        if tell(News::Update(update)).is_err() {
            return Ok(());
        }
        known = objects;
        snapshots
            .changed()
            .await
            .context("the manifest directory is not followed any more")?;
    }
}

fn asked_to_stop() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("listen to signals");
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod may have a quarter of the flows, or what is configured, up to half.
    #[test]
    fn a_pod_may_have_a_quarter_of_the_flows_or_up_to_half() {
        let flows = |table: u32, of_one: u32| {
            let sizes = with_flows(
                Sizes::default(),
                NonZeroU32::new(table),
                NonZeroU32::new(of_one),
            )?;
            anyhow::Ok((sizes.flows, sizes.flows_per_attachment))
        };
        assert_eq!(flows(0, 0).unwrap(), (65_536, 16_384));
        assert_eq!(flows(524_288, 0).unwrap(), (524_288, 131_072));
        assert_eq!(flows(524_288, 200_000).unwrap(), (524_288, 200_000));
        assert_eq!(flows(0, 32_768).unwrap(), (65_536, 32_768));
        assert_eq!(flows(1, 0).unwrap(), (1, 1));
        let refused = flows(0, 60_000).unwrap_err().to_string();
        assert!(
            refused.contains("--conntrack-cache-table-size 120000"),
            "{refused}"
        );
    }

    #[test]
    fn unreadable_sizes_do_not_keep_the_enforcer_from_starting() {
        let run = tempfile::tempdir().unwrap();
        let paths = Paths {
            run: run.path().to_owned(),
            bpffs: run.path().join("bpffs"),
        };
        let told = Sizes {
            rows: 128,
            ..Sizes::default()
        };
        told.write(&paths).unwrap();
        assert_eq!(sizes_of(&paths), told);
        for cut in ["", "{\"rows\":", "garbage"] {
            std::fs::write(paths.config(), cut).unwrap();
            assert_eq!(sizes_of(&paths), Sizes::default(), "{cut:?}");
        }
    }
}
