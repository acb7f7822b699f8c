// The definitions of the Gateway API's kinds are files of this module; it is fetched, never built.
module qanat.io/tests/kubernetes/kube/gateway-api

go 1.26.0

require sigs.k8s.io/gateway-api v1.6.3
