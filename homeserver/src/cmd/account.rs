//! `mangrove account`: accounts of the node, whether it runs or not.
//!
//! Where the node runs, the command asks it over the control socket; otherwise it takes the data directory itself.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::control::{Asked, Request, ask};
use super::{CmdError, Data, DataDir, init, runtime, table};
use crate::account::Identity;
use crate::clock::Clock;
use crate::notify::Notify;
use crate::store::Store;
use crate::user::Users;

#[derive(Args, Debug)]
pub(super) struct AccountArgs {
    #[command(flatten)]
    data: Data,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Make an account; asks for its password, or reads it from standard input
    Create {
        name: String,
        /// It may administer the server
        #[arg(long)]
        admin: bool,
    },
    /// List the accounts
    List,
    /// Set a new password and end the account's sessions
    ResetPassword { name: String },
    /// Print a link and a QR code by which others find the account
    Share { name: String },
    /// Make a token with which one account can be registered in a client
    Token,
    /// Show the words that can restore this server's name on another device, once
    RecoveryWords {
        /// Remove the words from this device
        #[arg(long)]
        forget: bool,
    },
}

pub(super) fn account(args: &AccountArgs) -> Result<(), CmdError> {
    let dir = args.data.resolve()?;
    let request = match &args.what {
        What::Create { name, admin } => {
            Request::AccountCreate { name: name.clone(), password: read_password()?, admin: *admin }
        }
        What::List => Request::AccountList,
        What::ResetPassword { name } => {
            Request::AccountResetPassword { name: name.clone(), password: read_password()? }
        }
        What::Share { name } => return share(&dir, name),
        What::Token => Request::AccountToken,
        What::RecoveryWords { forget: false } => Request::RecoveryWords,
        What::RecoveryWords { forget: true } => Request::ForgetRecoveryWords,
    };
    let value = runtime()?.block_on(perform(&dir, request))?;
    print!("{}", table::render(&value));
    if matches!(args.what, What::RecoveryWords { forget: false }) {
        println!(
            "Write them down and keep them where no one else looks: whoever has them owns {}.",
            name_of(&dir)?
        );
        println!("`mangrove account recovery-words --forget` then removes them from this device.");
    }
    Ok(())
}

/// Asks the running node, or does it here where none runs.
async fn perform(dir: &Path, request: Request) -> Result<Value, CmdError> {
    match ask(dir, &request).await {
        Ok(Asked::Answered(answer)) => answer.map_err(CmdError::Failed),
        Ok(Asked::NotRunning) => {
            let dir = DataDir::open(dir)?;
            let identity = init::open_identity(&dir, None)?;
            let store = Store::open(dir.path(), Default::default(), Notify::default())
                .map_err(|error| CmdError::Usage(format!("database in {}: {error}", dir.path().display())))?;
            let users = Users::new(
                store,
                Clock::system(),
                identity.server_name().to_owned(),
                crate::server::device_hooks(),
            );
            handle(&users, &identity, request).await.map_err(CmdError::Failed)
        }
        Err(error) => Err(CmdError::Failed(format!("the node in {}: {error}", dir.display()))),
    }
}

/// What the account requests do, in the running node and without it.
pub(super) async fn handle(users: &Users, identity: &Identity, request: Request) -> Result<Value, String> {
    let text = |error: crate::user::UserError| error.to_string();
    match request {
        Request::AccountCreate { name, password, admin } => {
            let user = users.create_by_operator(&name, &password).await.map_err(text)?;
            if admin {
                users.set_flag(&user, crate::user::Flag::Admin, true).await.map_err(text)?;
            }
            Ok(json!(user))
        }
        Request::AccountList => {
            let accounts = users.list().await.map_err(text)?;
            Ok(accounts.into_iter().map(|account| json!(account)).collect())
        }
        Request::AccountResetPassword { name, password } => {
            let user = users.reset_password(&name, &password).await.map_err(text)?;
            Ok(json!(format!("{user} has a new password; its sessions have ended")))
        }
        Request::AccountToken => {
            users.make_registration_token().await.map(|token| json!(token)).map_err(text)
        }
        Request::RecoveryWords => {
            identity.recovery_words().map(|words| json!(words)).map_err(|error| error.to_string())
        }
        Request::ForgetRecoveryWords => identity
            .forget_recovery_words()
            .map(|()| json!("the recovery words are no longer on this device"))
            .map_err(|error| error.to_string()),
        other => Err(format!("{other:?} is no request about accounts")),
    }
}

/// A password from the terminal, twice, or the first line of standard input.
fn read_password() -> Result<String, CmdError> {
    let failed = |error: std::io::Error| CmdError::Failed(format!("password: {error}"));
    let password = if std::io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").map_err(failed)?;
        let second = rpassword::prompt_password("Password again: ").map_err(failed)?;
        if first != second {
            return Err(CmdError::Usage("the two passwords differ; try again".into()));
        }
        first
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(CmdError::Usage("the password is empty; type one, or give it on standard input".into()));
    }
    Ok(password)
}

/// A `matrix:` URI of the user (spec: appendices, "matrix: URI scheme") and the same as a QR code.
fn share(dir: &Path, name: &str) -> Result<(), CmdError> {
    let server = name_of(dir)?;
    let user = ruma::UserId::parse(format!("@{}:{server}", name.trim_start_matches('@')))
        .map_err(|error| CmdError::Usage(format!("{name:?} is no user's name here: {error}")))?;
    let link = user.matrix_uri(true).to_string();
    let code =
        qrcode::QrCode::new(&link).map_err(|error| CmdError::Failed(format!("no QR code: {error}")))?;
    println!("{link}\n");
    println!("{}", code.render::<qrcode::render::unicode::Dense1x2>().build());
    Ok(())
}

fn name_of(dir: &Path) -> Result<ruma::OwnedServerName, CmdError> {
    super::data_dir::read_node_key(dir)?;
    Identity::read_server_name(dir).map_err(|error| CmdError::Usage(error.to_string()))
}
