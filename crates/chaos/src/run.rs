//! Carries out a plan: sets up the stage, applies the faults, waits until the queue is empty, and compares.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    comparison::compare,
    lake, letters,
    outcome::Outcome,
    plan::Plan,
    quarantine,
    stage::{DELIVERIES, Stage},
    workers::Workers,
};

/// Program and settings of a run's workers.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Program of the worker.
    pub program: &'a Path,
    /// Lease of the ledger; `None` runs without a ledger.
    pub lease: Option<Duration>,
}

/// Carries out the plan in a sandbox of its own. Flaws of the workers are no errors; the [`Outcome`] lists them.
///
/// # Errors
/// The plan could not be carried out.
pub async fn run(plan: &Plan, setting: Setting<'_>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let stage = Stage::set_up(plan).await?;
    let folder = env::temp_dir().join(format!("logferry-chaos-{}-{:08x}", plan.seed, fastrand::u32(..)));
    let environment = stage.environment(plan, setting.lease).await?;
    let mut workers = Workers::start(setting.program, environment, folder, plan.workers)?;
    let mut problems = Vec::new();

    let begun = Instant::now();
    let timeline = async {
        let rained = stage.carry_out(plan, begun).await;
        // All faults end here, even if the run failed.
        stage.sandbox.faults().clear();
        rained
    };
    let disturbances = async {
        workers.strike(&plan.strokes, &stage.sandbox, begun).await?;
        match plan.outage {
            Some(outage) => workers.watch(outage, begun).await,
            None => Ok(Vec::new()),
        }
    };
    let (stored, disturbed) = tokio::join!(timeline, disturbances);
    let stored = stored?;
    match disturbed {
        Ok(missing) => problems.extend(missing),
        Err(error) => problems.push(format!("{error:#}")),
    }
    let settled = async {
        stage.wait_until_done(&mut workers).await?;
        if plan.outage.is_some() {
            workers.ready().await?;
        }
        for message in &plan.late {
            stage.send(message, &stored).await?;
        }
        stage.wait_until_done(&mut workers).await
    };
    if let Err(error) = settled.await {
        problems.push(format!("{error:#}"));
    }
    let unaccounted = match workers.unaccounted().await {
        Ok(count) => count,
        Err(error) => {
            problems.push(format!("{error:#}"));
            0
        }
    };
    if let Err(error) = workers.stop().await {
        problems.push(format!("{error:#}"));
    }
    let findings = workers.findings()?;
    problems.extend(findings.defects);

    let faults = stage.sandbox.faults().struck();
    let struck = |names: &[&str]| names.iter().filter_map(|name| faults.get(*name)).sum::<u64>();
    let letters = stage.dead_letters().await?;
    let excused = letters::Excuses {
        blows: workers.kills + workers.pauses,
        lost_answers: struck(&["sqs:SendMessage after", "sqs:SendMessageBatch after"]),
    };
    problems.extend(letters::judge(&stage.told_of(plan, &stored), &letters, excused));
    problems.extend(stage.judge_copies(plan, &stored).await?);
    let comparison = compare(&stage.lanes(plan, &stored), &stage.sandbox.puts());
    let laked = lake::compare(&stage.lakes(plan, &stored).await?);
    let kept = quarantine::compare(&stage.shelves(plan, &stored), stage.quarantined(plan).await?);
    let messages =
        plan.objects.iter().filter(|object| !object.silent).count() + plan.messages.len() + plan.late.len();
    let again = plan.messages.iter().filter(|message| message.again).count() + plan.late.len();
    let outcome = Outcome {
        kind: plan.kind,
        ledger: setting.lease.is_some(),
        took: started.elapsed(),
        kills: workers.kills,
        pauses: workers.pauses,
        deliveries_at_once: (plan.concurrency * DELIVERIES.len()) as u64,
        lost_answers: struck(&["logs:PutLogEvents after", "logs:PutLogEvents half_body"]),
        sent_anew: stage.sent_anew(),
        copies: stage.copies(plan, &stored).values().map(|copies| copies.len() as u64).sum(),
        faults,
        objects: plan.objects.len() as u64,
        records: stage.made.iter().map(|made| made.records as u64).sum(),
        messages: messages as u64,
        again: again as u64,
        dead_letters: letters.len() as u64,
        unaccounted,
        without_ledger: findings.without_ledger,
        comparison,
        kept,
        laked,
        uploads: stage.sandbox.calls("s3", "CompleteMultipartUpload"),
        problems,
    };
    match outcome.complaints().is_empty() {
        true => fs::remove_dir_all(workers.folder()).context("cannot remove the workers' logs")?,
        false => eprintln!("seed {}: the workers' logs are in {}", plan.seed, workers.folder().display()),
    }
    Ok(outcome)
}
