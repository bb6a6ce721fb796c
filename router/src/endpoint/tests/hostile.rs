//! Goal: nothing that comes from outside makes an endpoint panic or grow without bound.
