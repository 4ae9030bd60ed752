//! What the commands that work on a folder of manifests have in common.

use std::path::PathBuf;

use translate::{PortMap, Settings};

use crate::ca::{CaError, InstallationSecret};

/// A folder of manifests and how it is read.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// The folder; *.yaml, *.yml and *.json are read, at any depth
    pub dir: PathBuf,
    /// The class of Ingresses and Gateways that are served; it need not be in the folder
    #[arg(long, value_name = "NAME", default_value = "sluice")]
    pub class: String,
    /// Where Ingresses and port 80 of Gateways are served
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: u16,
    /// Where the TLS hosts of Ingresses and port 443 of Gateways are served
    #[arg(long, value_name = "PORT", default_value_t = 8443, value_parser = clap::value_parser!(u16).range(1..))]
    pub https_port: u16,
}

impl Source {
    /// Whether the arguments fit together.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn validate(&self) -> Result<(), String> {
        match self.http_port == self.https_port {
            true => Err(format!("--http-port and --https-port are both {}; choose two ports", self.http_port)),
            false => Ok(()),
        }
    }

    /// The settings for translation, with keys and a certificate that live as long as the process.
    ///
    /// # Errors
    /// When no keys can be made.
    pub fn settings(&self) -> Result<Settings, CaError> {
        let keys = InstallationSecret::generate()?;
        let mut settings = Settings {
            ingress_class: self.class.clone(),
            ports: PortMap { http: self.http_port, https: self.https_port },
            allow_loopback_endpoints: true,
            access_log: snapshot::AccessLog::Off,
            ..Settings::default()
        };
        keys.apply_to(&mut settings);
        Ok(settings)
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}
