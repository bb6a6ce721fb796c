//! Questions to a service: does this user or alias exist, what is known in its networks, are you there.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{RoomAliasId, UserId};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Appservices, registration::Registration};
use crate::remote::outside::OutsideError;

/// How long a service may take to answer a question that a client waits for.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a ping did not come back.
#[derive(Debug)]
pub enum PingError {
    /// The registration names no address.
    NoUrl,
    /// Nothing answers.
    Failed(String),
    /// Nothing answers in time.
    Timeout(String),
    /// It answers with something else than success.
    Status(u16, String),
}

impl Appservices {
    /// Sends a request to a service: status and body.
    pub(super) async fn call(
        &self,
        service: &Registration,
        method: Method,
        path: &str,
        body: Option<Value>,
        within: Duration,
    ) -> Result<(u16, Bytes), OutsideError> {
        let url = format!("{}/_matrix/app/v1/{path}", service.url.as_deref().unwrap_or_default());
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::AUTHORIZATION, format!("Bearer {}", service.hs_token));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request =
            request.body(Bytes::from(body)).map_err(|error| OutsideError::new(error.to_string()))?;
        let answer = self.inner.outside.send(request, ANSWER_BYTES_MAX, within).await?;
        Ok((answer.status().as_u16(), answer.into_body()))
    }

    /// Whether a service says that a user of its namespace exists; it makes the account before it says so.
    pub async fn query_user(&self, user: &UserId) -> bool {
        let set = self.set();
        let named = set.services.iter().filter(|service| service.names_user(user.as_str()));
        for service in named.filter(|service| service.url.is_some()) {
            if self.exists(service, &format!("users/{}", encode(user.as_str()))).await {
                return true;
            }
        }
        false
    }

    /// Whether a service says that an alias of its namespace exists; it makes the room before it says so.
    pub async fn query_alias(&self, alias: &RoomAliasId) -> bool {
        let set = self.set();
        let named = set.services.iter().filter(|service| service.has_alias(alias));
        for service in named.filter(|service| service.url.is_some()) {
            if self.exists(service, &format!("rooms/{}", encode(alias.as_str()))).await {
                return true;
            }
        }
        false
    }

    async fn exists(&self, service: &Registration, path: &str) -> bool {
        match self.call(service, Method::GET, path, None, ANSWER_WITHIN).await {
            Ok((200, _)) => true,
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(service = service.id, %error, "an application service does not answer");
                false
            }
        }
    }

    /// Networks that services know, by name. Of a network that several know, their instances together.
    pub async fn protocols(&self) -> serde_json::Map<String, Value> {
        let mut all = serde_json::Map::new();
        for service in &self.set().services {
            for name in &service.protocols {
                if let Some(found) = self.protocol_of(service, name).await {
                    merge_protocol(&mut all, name, found);
                }
            }
        }
        all
    }

    /// One network.
    pub async fn protocol(&self, name: &str) -> Option<Value> {
        let mut all = serde_json::Map::new();
        for service in
            self.set().services.iter().filter(|service| service.protocols.iter().any(|own| own == name))
        {
            if let Some(found) = self.protocol_of(service, name).await {
                merge_protocol(&mut all, name, found);
            }
        }
        all.remove(name)
    }

    async fn protocol_of(&self, service: &Registration, name: &str) -> Option<Value> {
        let path = format!("thirdparty/protocol/{}", encode(name));
        let (status, body) = self.call(service, Method::GET, &path, None, ANSWER_WITHIN).await.ok()?;
        let mut value: Value = serde_json::from_slice(&body).ok()?;
        if status != 200 || !value.is_object() {
            return None;
        }
        // By this name clients ask for the directory of the network, which the service fills.
        for instance in value.get_mut("instances").and_then(Value::as_array_mut).into_iter().flatten() {
            let network = instance["network_id"].as_str().map(|network| format!("{}|{network}", service.id));
            if let (Value::Object(instance), Some(network)) = (instance, network) {
                instance.insert("instance_id".into(), network.into());
            }
        }
        Some(value)
    }

    /// Users or locations (`kind`) of a network, or, without one, those that belong to a Matrix user or alias.
    pub async fn third_party(&self, kind: &str, protocol: Option<&str>, query: &str) -> Vec<Value> {
        let mut all = Vec::new();
        for service in &self.set().services {
            let path = match protocol {
                Some(name) if service.protocols.iter().any(|own| own == name) => {
                    format!("thirdparty/{kind}/{}?{query}", encode(name))
                }
                Some(_) => continue,
                None if service.protocols.is_empty() => continue,
                None => format!("thirdparty/{kind}?{query}"),
            };
            if let Ok((200, body)) = self.call(service, Method::GET, &path, None, ANSWER_WITHIN).await
                && let Ok(Value::Array(found)) = serde_json::from_slice(&body)
            {
                all.extend(found);
            }
        }
        all
    }

    /// Asks a service whether it is there; how long that took.
    pub async fn ping(&self, service: &Arc<Registration>, txn: Option<&str>) -> Result<Duration, PingError> {
        if service.url.is_none() {
            return Err(PingError::NoUrl);
        }
        let begun = Instant::now();
        let body = match txn {
            Some(txn) => json!({"transaction_id": txn}),
            None => json!({}),
        };
        match self.call(service, Method::POST, "ping", Some(body), ANSWER_WITHIN).await {
            Ok((200..=299, _)) => Ok(begun.elapsed()),
            Ok((status, body)) => Err(PingError::Status(status, String::from_utf8_lossy(&body).into_owned())),
            Err(error) if begun.elapsed() >= ANSWER_WITHIN => Err(PingError::Timeout(error.to_string())),
            Err(error) => Err(PingError::Failed(error.to_string())),
        }
    }
}

fn merge_protocol(all: &mut serde_json::Map<String, Value>, name: &str, found: Value) {
    match all.get_mut(name).and_then(|known| known["instances"].as_array_mut()) {
        Some(instances) => instances.extend(found["instances"].as_array().cloned().unwrap_or_default()),
        None => drop(all.insert(name.to_owned(), found)),
    }
}

/// As one segment of a path.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
