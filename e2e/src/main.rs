//! The scenarios on the real cluster. `run.sh` starts the cluster and runs this in the namespace of an outside client.

mod balancer;
mod certificates;
mod client;
mod cluster;
mod load;
mod manifests;
mod scenarios;
mod suite;
mod websocket;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::scenarios::SCENARIOS;
use crate::suite::Suite;

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns how many scenarios failed.
async fn run(arguments: Vec<String>) -> Result<usize> {
    let [state, programs, wanted @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: e2e STATE_DIR PROGRAMS_DIR [SCENARIO...]   (called by run.sh)");
    };
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    for name in wanted {
        ensure!(names.contains(&name.as_str()), "no scenario {name}; there are: {}", names.join(", "));
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok().context("a TLS provider is installed")?;
    let mut suite = Suite::start(PathBuf::from(state), PathBuf::from(programs)).await?;
    let (mut passed, mut failed) = (0, 0);
    for scenario in SCENARIOS {
        // The first installs the product: there is none without it.
        if !wanted.is_empty() && !wanted.contains(&scenario.name.to_owned()) && passed > 0 {
            continue;
        }
        let began = Instant::now();
        let outcome = (scenario.run)(&mut suite).await;
        let seconds = began.elapsed().as_secs_f32();
        match outcome {
            Ok(figures) => {
                passed += 1;
                println!(
                    "test {} ... ok ({seconds:.1} s{}{figures})",
                    scenario.name,
                    if figures.is_empty() { "" } else { "; " }
                );
            }
            Err(error) => {
                failed += 1;
                println!("test {} ... FAILED ({seconds:.1} s)\n{error:#}", scenario.name);
                suite.describe().await;
                if passed == 0 {
                    break;
                }
            }
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed)
}
