//! Command line of `ocserv` (cli.md §1).

use std::path::PathBuf;

use clap::Parser;

/// Options of the server.
#[derive(Debug, Parser)]
#[command(
    name = "ocserv",
    about = "OpenConnect VPN server",
    disable_version_flag = true,
    override_usage = "ocserv -c [config]"
)]
pub struct Options {
    /// Do not fork into background
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Enable verbose network debugging information, 0 to 9
    #[arg(short = 'd', long, value_name = "N", value_parser = parse_debug)]
    pub debug: Option<u8>,
    /// Configuration file for the server
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Test the provided configuration file
    #[arg(short = 't', long)]
    pub test_config: bool,
    /// Specify a PID file for the server
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Log to standard error
    #[arg(short = 'e', long)]
    pub log_stderr: bool,
    /// Log to syslog
    #[arg(short = 's', long)]
    pub syslog: bool,
    /// Syslog facility: daemon, user, auth, authpriv, local0 to local7
    #[arg(long, value_name = "NAME")]
    pub syslog_facility: Option<String>,
    /// Do not change the working directory when going into background
    #[arg(long)]
    pub no_chdir: bool,
    /// Allow the processes to be traced (debugging)
    #[arg(short = 'x', long)]
    pub traceable: bool,
    /// Show the version
    #[arg(short = 'v', long)]
    pub version: bool,
    /// Words that are no options: an error, in the reference's text.
    #[arg(hide = true)]
    pub extra: Vec<String>,
}

/// Levels above 9 mean 9 (manuals name values up to 9999).
fn parse_debug(text: &str) -> Result<u8, String> {
    let level: u32 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    Ok(level.min(9) as u8)
}

/// What `-v` prints, on stderr.
pub fn version_text() -> String {
    format!(
        "ocserv-xdp {}\n\nCompiled with: seccomp, AnyConnect\nTLS: rustls (ring); DTLS handshake and keys: {}",
        env!("CARGO_PKG_VERSION"),
        openssl::version::version(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_options_are_understood() {
        let options = Options::parse_from([
            "ocserv",
            "-f",
            "-d",
            "9999",
            "-c",
            "/etc/x.conf",
            "-p",
            "/run/x.pid",
            "-e",
            "-s",
            "--syslog-facility",
            "local3",
            "--no-chdir",
            "-x",
        ]);
        assert!(options.foreground && options.log_stderr && options.syslog && options.no_chdir);
        assert_eq!(options.debug, Some(9));
        assert_eq!(Options::parse_from(["ocserv", "extra"]).extra, ["extra"]);
    }
}
