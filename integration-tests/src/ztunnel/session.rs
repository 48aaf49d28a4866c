//! The connection of a client: what is asked, when it is acknowledged, and
//! what happens when it ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use prost_types::value::Kind;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;

use super::table::Table;
use super::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use super::{ADDRESS, AUTHORIZATION, Command, Options, connect};

const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What ztunnel accepts in one message.
const MAX_MESSAGE: usize = 200 << 20;
/// Between two attempts; ztunnel's grows to 15 s, which would only be slower.
const BACKOFF: Duration = Duration::from_millis(50);

type Shared = Arc<Mutex<Table>>;

/// Connects again and again.
pub(super) async fn run(
    mut options: Options,
    table: Shared,
    changed: watch::Sender<u64>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    {
        let mut table = table.lock().unwrap();
        table.on_demand = options.on_demand;
        table.versions = options.retained.clone();
    }
    loop {
        let end = session(&options, &table, &changed, &mut commands).await;
        {
            let mut table = table.lock().unwrap();
            table.disconnect();
            table.last_error = end.as_ref().err().cloned();
        }
        changed.send_modify(|count| *count += 1);
        if matches!(end, Ok(End::Told)) {
            loop {
                match commands.recv().await {
                    Some(Command::Connect(address)) => break options.address = address,
                    Some(_) => {}
                    None => return,
                }
            }
        } else {
            if !options.others.is_empty() {
                let next = options.others.remove(0);
                options.others.push(std::mem::replace(&mut options.address, next));
            }
            tokio::time::sleep(BACKOFF).await;
        }
    }
}

/// Why a connection ended without an error.
enum End {
    /// The server ended it.
    Server,
    /// The test did.
    Told,
}

async fn session(
    options: &Options,
    table: &Shared,
    changed: &watch::Sender<u64>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) -> Result<End, tonic::Status> {
    let channel = connect::channel(options).await?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let (requests, queue) = mpsc::unbounded_channel();
    let send = |request: DeltaDiscoveryRequest| {
        requests.send(request).map_err(|_| tonic::Status::cancelled("the stream is closed"))
    };
    // Both are sent before anything is answered, addresses first.
    for type_url in [ADDRESS, AUTHORIZATION] {
        send(first_request(options, &table.lock().unwrap(), type_url))?;
    }
    let mut request = tonic::Request::new(UnboundedReceiverStream::new(queue));
    connect::authorize(options, request.metadata_mut());
    let codec = tonic_prost::ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    let mut responses = client.streaming(request, PathAndQuery::from_static(METHOD), codec).await?.into_inner();
    table.lock().unwrap().connect();
    let mut held: Option<Vec<DeltaDiscoveryRequest>> = None;
    let mut due: Vec<DeltaDiscoveryRequest> = vec![];
    loop {
        tokio::select! {
            response = responses.next() => {
                let Some(response) = response else { return Ok(End::Server) };
                let ack = take(table, response?, held.as_deref().unwrap_or_default());
                changed.send_modify(|count| *count += 1);
                due.push(ack);
                // A response that is there already was sent before the
                // acknowledgement of this one.
                while let Some(early) = responses.next().now_or_never() {
                    let Some(early) = early else { return Ok(End::Server) };
                    let mut waiting = due.clone();
                    waiting.extend(held.iter().flatten().cloned());
                    due.push(take(table, early?, &waiting));
                    changed.send_modify(|count| *count += 1);
                }
                match &mut held {
                    Some(held) => held.append(&mut due),
                    None => due.drain(..).try_for_each(&send)?,
                }
            }
            command = commands.recv() => match command {
                None | Some(Command::Disconnect) => return Ok(End::Told),
                // It is connected.
                Some(Command::Connect(_)) => {}
                Some(Command::HoldAcks(hold)) => {
                    let due = held.take().into_iter().flatten();
                    due.filter(|_| !hold).try_for_each(&send)?;
                    held = hold.then(Vec::new);
                    table.lock().unwrap().holding = hold;
                    changed.send_modify(|count| *count += 1);
                }
                Some(Command::Demand(names)) => {
                    table.lock().unwrap().demand(&names);
                    send(DeltaDiscoveryRequest {
                        type_url: ADDRESS.into(),
                        resource_names_subscribe: names,
                        ..Default::default()
                    })?;
                }
            },
        }
    }
}

/// Takes a response and returns what it is answered with. `waiting` are the
/// answers that have not been sent yet.
fn take(table: &Shared, response: DeltaDiscoveryResponse, waiting: &[DeltaDiscoveryRequest]) -> DeltaDiscoveryRequest {
    let mut table = table.lock().unwrap();
    if waiting.iter().any(|ack| ack.type_url == response.type_url) {
        table.breach(format!("a second {} before the first was acknowledged", response.type_url));
    }
    let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
    let error_detail = table.take(response).err().map(|message| Status { code: 0, message });
    DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }
}

fn first_request(options: &Options, table: &Table, type_url: &'static str) -> DeltaDiscoveryRequest {
    let text = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.into())) };
    let metadata = [
        ("NAME", "ztunnel-test"),
        ("NAMESPACE", "istio-system"),
        ("INSTANCE_IPS", "10.243.0.1"),
        ("NODE_NAME", &options.node),
        ("CLUSTER_ID", "Kubernetes"),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_string(), text(value)));
    let nothing = options.on_demand && type_url == ADDRESS;
    let names: Vec<String> = if nothing { vec!["*".into()] } else { vec![] };
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: "ztunnel~10.243.0.1~ztunnel-test.istio-system~istio-system.svc.cluster.local".into(),
            metadata: Some(prost_types::Struct { fields: metadata.into() }),
        }),
        type_url: type_url.into(),
        resource_names_subscribe: names.clone(),
        resource_names_unsubscribe: names,
        initial_resource_versions: table.versions.get(type_url).cloned().unwrap_or_default(),
        ..Default::default()
    }
}
