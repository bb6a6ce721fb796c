//! The pages on which a browser logs in, and on which a newcomer registers.

use std::sync::Arc;

use http::{Method, StatusCode};
use ruma::api::client::uiaa::AuthType;

use super::{LOGIN_PATH, SIGNUP_PATH, Visit, hidden, next_path};
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{
        args::Incoming,
        limits::Class,
        page::{escape, redirect},
        reply::Made,
        uia,
    },
    remote::web::encode_form,
    server::{Registration, Server},
    user::{NewAccount, Proof, UserError},
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Pages, Method::GET, LOGIN_PATH, show_login).limit(Class::Refresh);
    table.plain(Group::Pages, Method::POST, LOGIN_PATH, login).limit(Class::Refresh);
    table.plain(Group::Pages, Method::GET, SIGNUP_PATH, show_signup).limit(Class::Register);
    table.plain(Group::Pages, Method::POST, SIGNUP_PATH, signup).limit(Class::Register);
}

async fn show_login(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    Ok(login_page(&visit, None))
}

fn login_page(visit: &Visit, wrong: Option<&str>) -> Made {
    let next = next_path(visit.field("next"));
    let query = encode_form(&[("next", next)]);
    let signup = if visit.server.settings().registration == Registration::Closed {
        String::new()
    } else {
        format!("<p><a href=\"{SIGNUP_PATH}?{query}\">Make an account</a></p>")
    };
    let html = format!(
        "{}{}{}{signup}",
        wrong_html(wrong),
        super::upstream::links(&visit.server, next),
        visit.form(
            LOGIN_PATH,
            &format!(
                "{}<label>User name<input name=\"user\" value=\"{}\" required autocomplete=\"username\" \
                 autocapitalize=\"none\"></label><label>Password<input name=\"password\" type=\"password\" required \
                 autocomplete=\"current-password\"></label><button>Log in</button>",
                hidden("next", next),
                escape(visit.field("user"))
            )
        )
    );
    let status = if wrong.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    visit.page(status, &format!("Log in to {}", visit.server.name), &html, &[])
}

async fn login(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let mut visit = Visit::of(server, incoming)?;
    let typed = visit.field("user").trim().to_lowercase();
    let user = match uia::user_id(&visit.server, &typed) {
        Some(user) => Some(user),
        None => visit.server.users.by_email(&typed).await?,
    };
    let Some(user) = user else {
        return Ok(login_page(&visit, Some(&UserError::WrongPassword.to_string())));
    };
    match visit.server.limits.take_login(&user, visit.incoming.origin.page.as_deref()) {
        Err(error @ RequestError::RateLimited { .. }) => {
            return Ok(login_page(&visit, Some(&error.to_string())));
        }
        other => other?,
    }
    match visit.server.users.check_password(&user, visit.field("password")).await {
        Ok(()) => {}
        Err(UserError::Store(error)) => return Err(error.into()),
        Err(error) => return Ok(login_page(&visit, Some(&error.to_string()))),
    }
    if visit.server.users.standing(&user).await?.locked {
        return Ok(login_page(&visit, Some(&UserError::Locked.to_string())));
    }
    visit.browser = visit.server.users.browser_login(&visit.browser, &user);
    Ok(Made(visit.with_cookie(redirect(next_path(visit.field("next"))))))
}

async fn show_signup(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let visit = Visit::of(server, incoming)?;
    Ok(signup_page(&visit, None))
}

fn signup_page(visit: &Visit, wrong: Option<&str>) -> Made {
    let stages = uia::registration_stages(&visit.server);
    let here = |stage: &AuthType| matches!(stage, AuthType::RegistrationToken | AuthType::Terms);
    if visit.server.settings().registration == Registration::Closed || !stages.iter().all(here) {
        let html =
            "<p>Accounts are not made on this page. Register in an app, or ask whoever runs this server.</p>";
        return visit.page(StatusCode::FORBIDDEN, "No registration here", html, &[]);
    }
    let next = next_path(visit.field("next"));
    let mut inside = hidden("next", next);
    inside += &format!(
        "<label>User name<input name=\"user\" value=\"{}\" required autocomplete=\"username\" \
         autocapitalize=\"none\"></label><label>Password (8 characters or more)<input name=\"password\" \
         type=\"password\" required autocomplete=\"new-password\" minlength=\"8\"></label>",
        escape(visit.field("user"))
    );
    if stages.contains(&AuthType::RegistrationToken) {
        inside += "<label>Registration token<input name=\"token\" required autocomplete=\"off\"></label>";
    }
    if let Some(terms) = &visit.server.settings().accounts.terms {
        inside += &format!(
            "<label><input type=\"checkbox\" name=\"terms\" value=\"yes\" required> I agree to <a href=\"{}\" \
             rel=\"noreferrer\" target=\"_blank\">{}</a></label>",
            escape(&terms.url),
            escape(&terms.name)
        );
    }
    inside += "<button>Make the account</button>";
    let html = format!("{}{}", wrong_html(wrong), visit.form(SIGNUP_PATH, &inside));
    let status = if wrong.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    visit.page(status, &format!("An account on {}", visit.server.name), &html, &[])
}

async fn signup(server: Arc<Server>, incoming: Incoming) -> Result<Made, Error> {
    let mut visit = Visit::of(server, incoming)?;
    let stages = uia::registration_stages(&visit.server);
    let here = |stage: &AuthType| matches!(stage, AuthType::RegistrationToken | AuthType::Terms);
    if visit.server.settings().registration == Registration::Closed || !stages.iter().all(here) {
        return Ok(signup_page(&visit, None));
    }
    let settings = visit.server.settings();
    let terms = settings.accounts.terms.as_ref();
    if terms.is_some() && visit.field("terms") != "yes" {
        return Ok(signup_page(&visit, Some("to register, agree to the terms")));
    }
    let proof = if stages.contains(&AuthType::RegistrationToken) {
        Proof::Token(visit.field("token").to_owned())
    } else {
        Proof::Open
    };
    let account = NewAccount {
        localpart: Some(visit.field("user").trim().to_lowercase()),
        password: Some(visit.field("password").to_owned()),
        consent: terms.map(|terms| terms.version.clone()),
        ..NewAccount::new(proof)
    };
    match visit.server.users.register(account, None).await {
        Ok((user, _)) => {
            visit.browser = visit.server.users.browser_login(&visit.browser, &user);
            Ok(Made(visit.with_cookie(redirect(next_path(visit.field("next"))))))
        }
        Err(UserError::Store(error)) => Err(error.into()),
        Err(error) => Ok(signup_page(&visit, Some(&error.to_string()))),
    }
}

fn wrong_html(wrong: Option<&str>) -> String {
    wrong.map_or_else(String::new, |text| format!("<p class=\"wrong\" role=\"alert\">{}</p>", escape(text)))
}
