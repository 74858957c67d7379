//! The content of the page.

use bytesize::ByteSize;
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    Sources,
    text::{ago, clock, count, passed, rate, span, visible},
};
use crate::{
    breaker::Stopped,
    health::{ConditionReport, ConditionStatus, HealthReport, HealthStatus, ReadinessCondition},
    status::{FailureLine, Snapshot, TenantLine, TenantState},
};

/// Most open breakers on the page.
const MOST_BREAKERS: usize = 20;

/// Writes the content, as of `now`.
pub(super) fn write(sources: &Sources, most_tenants: usize, now: Timestamp) -> String {
    let found = sources.status.snapshot(most_tenants);
    let alive = sources.health.alive();
    let health = if alive.status == HealthStatus::Stalled { alive } else { sources.health.ready() };
    let markup = html! {
        (head(sources, health.status, now))
        (tiles(sources, &found))
        (conditions(&health, now))
        (tenants(&found, now))
        (breakers(&(sources.stopped)()))
        (failures(&found, now))
        footer {
            "As of " (clock(now)) ". This page shows what one worker has seen since its start; the metrics show all workers \
             together."
        }
    };
    markup.into_string()
}

fn head(sources: &Sources, status: HealthStatus, now: Timestamp) -> Markup {
    let queue = sources.queue_url.rsplit('/').next().unwrap_or_default();
    let uptime = passed(sources.since, now);
    let (class, word) = match status {
        HealthStatus::Ok => ("ok", "ready"),
        HealthStatus::Starting => ("waiting", "starting"),
        HealthStatus::Draining => ("paused", "draining"),
        HealthStatus::Unready => ("refused", "not ready"),
        HealthStatus::Stalled => ("refused", "stalled"),
    };
    html! {
        header {
            h1 { "logferry" }
            (pill(class, word))
            span.live title="Whether this page is kept up to date" {}
            p {
                "version " (env!("CARGO_PKG_VERSION")) ", up " (span(uptime)) ", queue "
                b title=(visible(&sources.queue_url)) { (visible(queue)) }
            }
        }
    }
}

fn tiles(sources: &Sources, found: &Snapshot) -> Markup {
    let Snapshot { throughput, .. } = found;
    let busy = sources.busy.get().ceil() as usize;
    let share = 100 * busy.min(sources.slots) / sources.slots.max(1);
    let none = || "–".to_owned();
    html! {
        section.tiles aria-label="Now" {
            (tile("Throughput", &rate(throughput.events), "events/s", html! {
                (ByteSize::b(throughput.bytes as u64)) "/s in the last minute"
            }))
            (tile("Freshness", &throughput.mean_freshness.map_or_else(none, span), "", html! {
                @match throughput.worst_freshness {
                    Some(worst) => { "on average from S3's event to acceptance, at worst " (span(worst)) }
                    None => "no object was accepted in the last minute",
                }
            }))
            (tile("Oldest waiting", &found.oldest_waiting.map_or_else(none, span), "", html! {
                @if found.waiting == 0 { "no object waits" } @else { (objects(found.waiting)) " waiting or in work" }
            }))
            (tile("Slots", &count(busy as u64), &format!("of {} busy", sources.slots), html! {
                svg.bar viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
                    rect width="100" height="4" {}
                    rect.full width=(share) height="4" {}
                }
                (objects(found.in_work)) " in work"
            }))
        }
    }
}

fn tile(name: &str, value: &str, unit: &str, more: Markup) -> Markup {
    html! {
        div {
            h2 { (name) }
            p.value { (value) @if !unit.is_empty() { small { " " (unit) } } }
            p { (more) }
        }
    }
}

fn conditions(health: &HealthReport, now: Timestamp) -> Markup {
    let explained = health.conditions.iter().filter(|condition| condition.explanation.is_some());
    html! {
        section {
            h2 { "Conditions" }
            p.chips {
                // `draining` is shown only while the worker drains.
                @for condition in health.conditions.iter().filter(|condition| !is_idle_drain(condition)) {
                    @match condition.status {
                        ConditionStatus::Ok => (pill("ok", condition.condition)),
                        ConditionStatus::Degraded => (pill("refused", condition.condition)),
                        ConditionStatus::Unknown => (pill("unknown", condition.condition)),
                        ConditionStatus::Off => {}
                    }
                }
            }
            ul.cards {
                @if let Some(stalled) = &health.stalled {
                    li.refused { b { "receive loop" } p { (stalled.problem) } p { (stalled.remedy) } }
                }
                @for condition in explained {
                    li.refused {
                        b { (condition.condition) }
                        @if let Some(resource) = &condition.resource { " of " bdi { (visible(resource)) } }
                        span.quiet title=(clock(condition.since)) { ", since " (span(passed(condition.since, now))) }
                        @if let Some(explanation) = &condition.explanation {
                            p { (explanation.problem) }
                            p { (explanation.remedy) }
                        }
                    }
                }
            }
        }
    }
}

fn is_idle_drain(condition: &ConditionReport) -> bool {
    condition.condition == ReadinessCondition::Draining.word() && condition.status == ConditionStatus::Ok
}

fn tenants(found: &Snapshot, now: Timestamp) -> Markup {
    let known: usize = found.states.iter().sum();
    html! {
        section {
            h2 { "Tenants" }
            @if known == 0 {
                p.quiet { "No object of a tenant has arrived since the worker started." }
            } @else {
                p.chips {
                    @for state in TenantState::ALL.into_iter().rev() {
                        @let number = found.states[state as usize];
                        @if number > 0 || state == TenantState::Ok {
                            (pill(state.word(), &format!("{} {}", count(number as u64), state.word())))
                        }
                    }
                }
                table {
                    thead { tr { th { "Tenant" } th { "State" } th { "Last success" } th { "Oldest waiting" } th { "Objects" } } }
                    @for line in &found.tenants { (tenant(line, now)) }
                }
                @if known > found.tenants.len() {
                    p.quiet { "and " (count((known - found.tenants.len()) as u64)) " more" }
                }
            }
        }
    }
}

fn tenant(line: &TenantLine, now: Timestamp) -> Markup {
    html! {
        tbody class=(line.state.word()) {
            tr {
                th scope="row" { bdi { (visible(&line.tenant_id)) } }
                td { (pill(line.state.word(), line.state.word())) }
                td data-name="Last success" { @match line.last_success {
                    Some(at) => span title=(clock(at)) { (ago(at, now)) },
                    None => span.quiet { "none yet" },
                } }
                td data-name="Oldest waiting" { @match line.oldest_waiting {
                    Some(age) => (span(age)),
                    None => span.none { "–" },
                } }
                td data-name="Objects waiting" { @match line.waiting {
                    0 => span.none { "–" },
                    waiting => (count(waiting as u64)),
                } }
            }
            @if let Some(advice) = line.advice {
                tr.why {
                    td colspan="5" {
                        code.reason { (advice.reason) }
                        @if let Some(delivery) = &line.delivery { " of " bdi { (visible(delivery)) } }
                        @if let Some(at) = line.failed_at { span.quiet title=(clock(at)) { ", " (ago(at, now)) } }
                        p { (sentence(advice.remedy)) }
                    }
                }
            }
        }
    }
}

fn breakers(stopped: &[Stopped]) -> Markup {
    html! {
        section {
            h2 { "Breakers" }
            @if stopped.is_empty() {
                p.quiet { "All closed: no role and no log group of a customer is refused." }
            } @else {
                ul.cards {
                    @for Stopped { tenant_id, subject, cause, probe_in } in stopped.iter().take(MOST_BREAKERS) {
                        li.refused {
                            b { bdi { (visible(tenant_id)) } } " " code.reason { (cause) }
                            span.quiet { ", next try " @if probe_in.as_secs() == 0 { "now" } @else { "in " (span(*probe_in)) } }
                            p.key { (visible(subject)) }
                        }
                    }
                }
                @if stopped.len() > MOST_BREAKERS {
                    p.quiet { "and " (count((stopped.len() - MOST_BREAKERS) as u64)) " more" }
                }
            }
        }
    }
}

fn failures(found: &Snapshot, now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Last failures" }
            @if found.failures.is_empty() {
                p.quiet { "None since the worker started." }
            } @else {
                ul.cards {
                    @for line in &found.failures { (failure(line, found, now)) }
                }
            }
        }
    }
}

fn failure(line: &FailureLine, found: &Snapshot, now: Timestamp) -> Markup {
    let of_line = |tenant: &&TenantLine| line.tenant_id.as_deref() == Some(&*tenant.tenant_id);
    // The table of tenants shows this remedy already.
    let is_told = found.tenants.iter().find(of_line).is_some_and(|tenant| tenant.advice == Some(line.advice));
    html! {
        li class=(line.advice.state.word()) {
            @match &line.tenant_id {
                Some(tenant_id) => b { bdi { (visible(tenant_id)) } },
                None => span.quiet { "no tenant" },
            }
            " " code.reason { (line.advice.reason) }
            @if let Some(delivery) = &line.delivery { " of " bdi { (visible(delivery)) } }
            span.quiet title=(clock(line.at)) {
                ", " (ago(line.at, now)) @if line.count > 1 { ", " (count(line.count)) " times" }
            }
            @if let Some(key) = &line.key { p.key { bdi { (visible(key)) } } }
            p { (visible(&line.text)) }
            @if !is_told { p { (sentence(line.advice.remedy)) } }
        }
    }
}

fn objects(number: usize) -> String {
    if number == 1 { "1 object".to_owned() } else { format!("{} objects", count(number as u64)) }
}

/// A sentence with commands between backticks.
fn sentence(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 0 { (part) } @else { code { (part) } }
        }
    }
}

fn pill(class: &str, text: &str) -> Markup {
    html! { span class=(format!("pill {class}")) { (text) } }
}
