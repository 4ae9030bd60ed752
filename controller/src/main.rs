//! `sluice`: the controller, and the same translation over a folder of manifests.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use controller::cluster::Controller;
use controller::log::{self, Format};
use controller::metrics::Metrics;
use controller::options::Options;
use controller::{check, client, explain, run, shutdown, uninstall};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ingress controller and Gateway API implementation.
#[derive(Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The format of the log on standard error; RUST_LOG selects what is logged. Default: json, but text on a
    /// terminal and for the commands that work on a folder
    #[arg(long, global = true, value_enum, env = "SLUICE_LOG_FORMAT")]
    log_format: Option<Format>,
}

#[derive(Subcommand)]
enum Command {
    /// Watch a cluster and feed its data planes
    Controller(Box<Options>),
    Run(run::Args),
    Check(check::Args),
    Explain(explain::Args),
    Uninstall(uninstall::Args),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let folder = !matches!(cli.command, Command::Controller(_));
    let _log = match log::start(cli.log_format, folder) {
        Ok(writing) => writing,
        Err(error) => {
            eprintln!("the log cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match cli.command {
        Command::Controller(options) => controller(*options),
        Command::Run(arguments) => return run::main(&arguments),
        Command::Check(arguments) => return check::main(&arguments),
        Command::Explain(arguments) => return explain::main(&arguments),
        Command::Uninstall(arguments) => return uninstall::main(&arguments),
        Command::Version => {
            println!("sluice {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn controller(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = Metrics::default();
    let client = client::infer(&metrics).await?;
    let (trigger, mut shutdown) = shutdown::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        trigger.stop();
    });
    let controller = tokio::select! {
        started = Controller::start(options, client, metrics, shutdown.clone()) => started?,
        // Without an API server the start takes long.
        () = shutdown.requested() => return Ok(()),
    };
    Ok(controller.run(shutdown).await?)
}
