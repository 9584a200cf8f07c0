//! HTTP: documents, uploads, search, queue, tenants; and the intake of producers' events.
