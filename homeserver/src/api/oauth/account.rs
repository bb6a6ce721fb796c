//! The account's page: name, devices, password, a new identity, the account's end. Where clients send their users.
// spec: https://spec.matrix.org/v1.19/client-server-api/#oauth-20-account-management

use std::sync::Arc;

use http::{Method, StatusCode};
use ruma::OwnedUserId;

use super::{ACCOUNT_PATH, LOGIN_PATH, Visit, hidden};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Incoming,
        limits::Class,
        page::{escape, redirect},
        reply::Made,
    },
    remote::web::encode_form,
    server::Server,
    user::UserError,
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::GET, ACCOUNT_PATH, show).limit(Class::Refresh);
    table.plain(Group::Pages, Method::POST, ACCOUNT_PATH, change).limit(Class::Refresh);
}

async fn show(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    let (action, device) = (visit.field("action").to_owned(), visit.field("device_id").to_owned());
    let here = format!("{ACCOUNT_PATH}?{}", encode_form(&[("action", &action), ("device_id", &device)]));
    let user = match visit.user_or_login(&here) {
        Ok(user) => user,
        Err(elsewhere) => return Ok(elsewhere),
    };
    account_page(&visit, &user, None).await
}

async fn account_page(visit: &Visit, user: &OwnedUserId, told: Option<&str>) -> Result<Made, Error> {
    let action = visit.field("action");
    let told = told
        .map_or_else(String::new, |text| format!("<p class=\"wrong\" role=\"status\">{}</p>", escape(text)));
    let html = match action {
        "org.matrix.cross_signing_reset" => format!(
            "<p>Your app wants to make a new identity for <b>{}</b>: all others have to verify you anew. Allow it only \
             if you have just asked for it and have lost your recovery key.</p>{}",
            escape(user.as_str()),
            visit.form(ACCOUNT_PATH, &button("reset_identity", "Allow it for ten minutes", ""))
        ),
        "org.matrix.account_deactivate" => format!(
            "<p>This ends the account <b>{}</b> for ever: it leaves its rooms, and nobody gets its name again.</p>{}",
            escape(user.as_str()),
            visit.form(
                ACCOUNT_PATH,
                &format!(
                    "{}<label>Password<input name=\"password\" type=\"password\" required \
                     autocomplete=\"current-password\"></label><label><input type=\"checkbox\" name=\"erase\" \
                     value=\"yes\"> Hide my messages from people who join later</label>{}",
                    hidden("action", action),
                    button("deactivate", "End the account", "")
                )
            )
        ),
        _ => whole(visit, user).await?,
    };
    Ok(visit.page(StatusCode::OK, "Your account", &format!("{told}{html}"), &[]))
}

async fn whole(visit: &Visit, user: &OwnedUserId) -> Result<String, Error> {
    let name = visit.server.users.shown(user).await?.0.unwrap_or_default();
    let only = visit.field("device_id");
    let mut html = format!(
        "<p><b>{}</b></p>{}",
        escape(user.as_str()),
        visit.form(
            ACCOUNT_PATH,
            &format!(
                "<label>Name<input name=\"name\" value=\"{}\" maxlength=\"200\"></label>{}",
                escape(&name),
                button("rename", "Save", "")
            )
        )
    );
    html += "<h2>Devices</h2><ul>";
    for device in visit.server.users.devices(user).await? {
        if !only.is_empty() && device.id != only {
            continue;
        }
        let form = visit
            .form(ACCOUNT_PATH, &button("end_device", "Log out", &hidden("device_id", device.id.as_str())));
        html += &format!(
            "<li>{} ({}){form}</li>",
            escape(device.name.as_deref().unwrap_or("unnamed")),
            escape(device.id.as_str())
        );
    }
    html += "</ul><h2>Password</h2>";
    html += &visit.form(
        ACCOUNT_PATH,
        &format!(
            "<label>Password now<input name=\"password\" type=\"password\" required autocomplete=\"current-password\">\
             </label><label>New password<input name=\"new_password\" type=\"password\" required minlength=\"8\" \
             autocomplete=\"new-password\"></label>{}",
            button("password", "Change it", "")
        ),
    );
    html += &format!(
        "<p><a href=\"{ACCOUNT_PATH}?action=org.matrix.cross_signing_reset\">Make a new identity</a> · <a \
         href=\"{ACCOUNT_PATH}?action=org.matrix.account_deactivate\">End the account</a></p>{}",
        visit.form(ACCOUNT_PATH, &button("logout", "Log out of this page", ""))
    );
    Ok(html)
}

fn button(does: &str, text: &str, more: &str) -> String {
    format!("{more}<button name=\"do\" value=\"{does}\">{text}</button>")
}

async fn change(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let mut visit = Visit::of(server, incoming)?;
    let user = match visit.user_or_login(ACCOUNT_PATH) {
        Ok(user) => user,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let told = match act(&mut visit, &user).await {
        Ok(Some(told)) => told,
        Ok(None) => return Ok(Made(redirect(LOGIN_PATH))),
        Err(Error::User(
            error @ (UserError::WrongPassword | UserError::WeakPassword { .. } | UserError::TooLarge(_)),
        )) => error.to_string(),
        Err(error) => return Err(error),
    };
    account_page(&visit, &user, Some(&told)).await
}

/// Does what a button says; nothing to tell where the browser is logged out then.
async fn act(visit: &mut Visit, user: &OwnedUserId) -> Result<Option<String>, Error> {
    let server = Arc::clone(&visit.server);
    Ok(Some(match visit.field("do") {
        "rename" => {
            let name = visit.field("name").trim().to_owned();
            let name = (!name.is_empty()).then(|| name.into());
            server.set_profile(user.clone(), "displayname", name).await?;
            "Your name is saved.".into()
        }
        "end_device" => {
            let device = ruma::OwnedDeviceId::from(visit.field("device_id"));
            server.users.logout(user, &device).await?;
            visit.fields.remove("device_id");
            "The device is logged out.".into()
        }
        "password" => {
            prove(visit, user).await?;
            server.users.set_password(user, visit.field("new_password"), false, None).await?;
            "Your password is changed.".into()
        }
        "reset_identity" => {
            server.users.allow_identity_reset(user);
            "Go back to your app now and try again there.".into()
        }
        "deactivate" => {
            prove(visit, user).await?;
            server.deactivate(user, visit.field("erase") == "yes").await?;
            return Ok(None);
        }
        _ => {
            server.users.browser_logout(&visit.browser);
            return Ok(None);
        }
    }))
}

/// The password, once more, before what cannot be undone.
async fn prove(visit: &Visit, user: &OwnedUserId) -> Result<(), Error> {
    visit.server.limits.take_login(user, visit.incoming.origin.page.as_deref())?;
    Ok(visit.server.users.check_password(user, visit.field("password")).await?)
}
