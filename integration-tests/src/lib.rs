//! Fairway against a real Kubernetes API and real clients.
