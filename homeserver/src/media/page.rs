//! What a page of the web says of itself (Open Graph, title, description). Called in a process of its own (see `contain.rs`):
//! a page that is nested deeply enough ends it.

use serde_json::{Map, Value};

/// Reads HTML as it came from `address`: an object of `og:` fields, as JSON. What is no page gives an empty one.
pub(super) fn read(html: &[u8], address: &str) -> Vec<u8> {
    let html = String::from_utf8_lossy(html).into_owned();
    let told = webpage::HTML::from_string(html, Some(address.to_owned())).map(|page| described(&page));
    Value::Object(told.unwrap_or_default()).to_string().into_bytes()
}

fn described(page: &webpage::HTML) -> Map<String, Value> {
    let mut told = Map::new();
    let mut put = |name: &str, value: Option<&str>| {
        let value = value.map(str::trim).filter(|value| !value.is_empty());
        if let Some(value) = value
            && told.len() < FIELDS_MAX
            && name.len() <= NAME_BYTES_MAX
        {
            let value: String = value.chars().take(VALUE_CHARS_MAX).collect();
            told.entry(format!("og:{name}")).or_insert(value.into());
        }
    };
    let graph = &page.opengraph;
    put(
        "title",
        graph.properties.get("title").or_else(|| page.meta.get("twitter:title")).map(String::as_str),
    );
    put("title", page.title.as_deref());
    put(
        "description",
        graph
            .properties
            .get("description")
            .or_else(|| page.meta.get("twitter:description"))
            .map(String::as_str),
    );
    put("description", page.description.as_deref());
    put("type", Some(&graph.og_type));
    let image = graph.images.first();
    put("image", image.map(|image| image.url.as_str()));
    put("image", page.meta.get("twitter:image").map(String::as_str));
    if let Some(alt) = image.and_then(|image| image.properties.get("alt")) {
        put("image:alt", Some(alt));
    }
    for (name, value) in &graph.properties {
        put(name, Some(value));
    }
    if !graph.properties.contains_key("title") && page.title.is_none() {
        // A page without a title: its first words.
        let words: String = page.text_content.split_whitespace().take(30).collect::<Vec<_>>().join(" ");
        put("description", Some(&words));
    }
    told
}

/// Fields told of one page.
const FIELDS_MAX: usize = 40;
const NAME_BYTES_MAX: usize = 64;
const VALUE_CHARS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_what_stands_in_for_them() {
        let told = |html: &str| -> Value {
            serde_json::from_slice(&read(html.as_bytes(), "http://x.org/")).unwrap()
        };
        let graph = told(
            "<html><head><title>plain</title><meta property='og:title' content='The Rock'>\
             <meta property='og:type' content='video.movie'><meta property='og:image' content='test.png'></head></html>",
        );
        assert_eq!(graph["og:title"], "The Rock");
        assert_eq!(graph["og:type"], "video.movie");
        assert_eq!(graph["og:image"], "test.png");
        let plain = told("<title>only a title</title><meta name='description' content='and words'><p>text");
        assert_eq!(plain["og:title"], "only a title");
        assert_eq!(plain["og:description"], "and words");
        assert_eq!(told("some words")["og:description"], "some words");
        assert!(read(&[0xff, 0xfe, 0], "x").starts_with(b"{"));
    }
}
