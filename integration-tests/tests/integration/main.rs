//! Fairway in front of a real Kubernetes API, seen by a strict ztunnel; and in
//! front of a folder, with a real Envoy as its waypoint.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails a test")]
#![allow(clippy::large_futures, reason = "a test runs once")]

mod mesh;
mod enrolment;
mod deployment;
mod encoding;
mod envoy;
mod gateways;
mod listeners;
mod status;
mod allocation;
mod policy;
mod protocol;
mod certificates;
mod replica;
mod root;
mod read_only;
mod undecodable;
mod rbac;
mod outage;
mod availability;
mod rotation;
mod soak;
mod waypoint;
mod credentials;
mod edge;
mod ingress;
mod demo;
mod stage;

use std::process::ExitCode;

use fairway_integration_tests::stage::enter;
use fairway_integration_tests::{runner, tests};
use stage::{pods as stage_pods, walkthrough};
use waypoint::{
    authorizers as waypoint_authorizers, changes as waypoint_changes, connections as waypoint_connections,
    endpoints as waypoint_endpoints, gateway_api as waypoint_gateway_api, policies as waypoint_policies,
    protocols as waypoint_protocols, rejected as waypoint_rejected, requests as waypoint_requests,
    routes as waypoint_routes, telemetry as waypoint_telemetry, tokens as waypoint_tokens,
};

fn main() -> ExitCode {
    // In namespaces of their own, two runs of the tests cannot meet, and nothing
    // outlives them.
    enter::enter(run)
}

fn run() -> ExitCode {
    // The long ones first: they end last.
    let tests = tests![
        walkthrough(""): bookinfo;
        stage_pods(""): life, services;
        // These are about how long things take, on a cluster of their own.
        availability("availability"): stopped_leader, killed, restarted_by_turns, other_build, back_in_time;
        rotation(""): under_load, restarted;
        // These break the cluster or need it to themselves. They share one
        // of their own.
        outage("spare"): crds_added_late, api_server_killed, absent_at_start;
        rbac("spare"): taken_away_and_given_back;
        soak("spare"): random_changes;
        undecodable("spare"): service_entry, mesh_config;
        read_only("spare"): nothing_is_written;
        gateways("spare"): read_only;
        status("spare"): with_the_rights_of_the_chart;
        allocation("spare"): life;
        gateways(""): classes, waypoint, overlays, of_others, bound;
        listeners(""): life, routes, listener_sets, backend_tls;
        status(""): bad_objects, ingresses;
        replica(""): versions_agree, restart_resends_nothing;
        root(""): config_maps, new_root, continued_root;
        deployment(""): roll, namespace_deleted;
        encoding(""): protobuf_is_json;
        waypoint_changes(""): under_load;
        waypoint_rejected(""): others_go_on, after_a_restart;
        waypoint_routes(""): weights, none, matches, actions, timeout, retries, mirror, no_such_subset, bad_rules;
        waypoint_requests(""): conditions, answers, cors, shares, attempts, delegates;
        waypoint_connections(""): weights, matches, names, gateway_api;
        waypoint_gateway_api(""): weights_and_headers, filters, more_filters, times, grpc, sessions;
        waypoint_policies(""): requests_and_callers, nothing_allowed, never_mixed;
        waypoint_authorizers(""): over_http, over_grpc, missing, only_logged, callers;
        waypoint_tokens(""): claims, places, fetched_keys;
        waypoint_telemetry(""): metrics, connections, access_logs, traces;
        waypoint_endpoints(""): listed_and_selected, names, as_it_came, slices, workloads, tls, proxy_protocol, near;
        waypoint_protocols(""): tcp, sniffed, server_first, unready, captured;
        edge(""): hosts_and_paths, weights, captured, names_of_tls, redirected, client_addresses, policies, changes;
        ingress(""): hosts_and_paths, certificates;
        credentials(""): served, rotated, clients;
        demo(""): ends_well;
        envoy(""): starts, refuses_what_it_does_not_know, takes_expressions;
        enrolment(""): annotated_pods_only, kinds_of_workloads;
        policy(""): authorization_policies, peer_authentications;
        protocol(""): one_response_until_acknowledged, reconnect_sends_what_changed, on_demand, as_in_production, refused_without_token;
        certificates(""): own_identity, impersonation, tokens, hostile_requests;
    ];
    runner::main(tests, || {
        Box::pin(async {
            mesh::stop().await;
            outage::stop().await;
            availability::stop().await;
            waypoint::stop().await;
            stage::stop().await;
        })
    })
}
