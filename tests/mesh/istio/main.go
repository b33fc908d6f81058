// Command istio says what Istio makes of Kubernetes and Istio objects, by Istio's own code.
//
// It reads a list of them, as JSON, from its standard input, checks every object of Istio as istiod's webhook does, and builds for every Pod
// the configuration that istiod would send to its proxy. It prints one JSON object: what was refused, what it was warned
// of, and listeners, routes, clusters and endpoints of each proxy. The arguments are the version that proxies say they
// have, and that of the Gateway API.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	envoy "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/gateway-api/pkg/consts"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/config/kube/gateway"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/core"
	"istio.io/istio/pilot/pkg/serviceregistry"
	"istio.io/istio/pilot/pkg/serviceregistry/kube/controller"
	"istio.io/istio/pilot/pkg/xds/endpoints"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/mesh/meshwatcher"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/gvk"
	"istio.io/istio/pkg/config/schema/gvr"
	"istio.io/istio/pkg/config/schema/resource"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/kube/kclient/clienttest"
	istiolog "istio.io/istio/pkg/log"
	"istio.io/istio/pkg/test"
	"istio.io/istio/pkg/util/protomarshal"
)

const (
	cluster = "Kubernetes"
	domain  = "cluster.local"
)

// answer is what is printed; objects are named Kind/namespace/name, proxies namespace/name.
type answer struct {
	Refused map[string]string `json:"refused"`
	Warned  map[string]string `json:"warned"`
	Proxies map[string]proxy  `json:"proxies"`
}

type proxy struct {
	Listeners []json.RawMessage `json:"listeners"`
	Routes    []json.RawMessage `json:"routes"`
	Clusters  []json.RawMessage `json:"clusters"`
	Endpoints []json.RawMessage `json:"endpoints"`
}

// input is what was read: objects that istiod watches, and the mesh's settings.
type input struct {
	configs []config.Config
	objects []runtime.Object
	pods    []*corev1.Pod
	mesh    *meshconfig.MeshConfig
}

func main() {
	options := istiolog.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	options.SetDefaultOutputLevel(istiolog.OverrideScopeName, istiolog.ErrorLevel)
	if err := istiolog.Configure(options); err != nil {
		panic(err)
	}
	out := answer{Refused: map[string]string{}, Warned: map[string]string{}, Proxies: map[string]proxy{}}
	in, err := read(os.Stdin, &out)
	if err == nil && len(in.pods) > 0 {
		err = test.Wrap(func(t test.Failer) { build(t, in, os.Args[1], os.Args[2], &out) })
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(from io.Reader, out *answer) (input, error) {
	in := input{mesh: mesh.DefaultMeshConfig()}
	var objects []json.RawMessage
	if err := json.NewDecoder(from).Decode(&objects); err != nil {
		return in, err
	}
	for _, each := range objects {
		if err := in.add(each, out); err != nil {
			return in, err
		}
	}
	return in, nil
}

func (in *input) add(raw json.RawMessage, out *answer) error {
	var kind crd.IstioKind
	if err := json.Unmarshal(raw, &kind); err != nil {
		return err
	}
	gvk := kind.GroupVersionKind()
	name := fmt.Sprintf("%s/%s/%s", gvk.Kind, kind.Namespace, kind.Name)
	if gvk.Kind == "IstioOperator" {
		return in.settings(raw)
	}
	if schema, known := collections.PilotGatewayAPI().FindByGroupKind(resource.FromKubernetesGVK(&gvk)); known && strings.HasSuffix(gvk.Group, "istio.io") {
		converted, err := crd.ConvertObject(schema, &kind, domain)
		if err != nil {
			out.Refused[name] = err.Error()
			return nil
		}
		warning, err := schema.ValidateConfig(*converted)
		if warning != nil {
			out.Warned[name] = warning.Error()
		}
		if err != nil {
			out.Refused[name] = err.Error()
			return nil
		}
		in.configs = append(in.configs, *converted)
		return nil
	}
	object, _, err := kube.IstioCodec.UniversalDeserializer().Decode(raw, nil, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	in.objects = append(in.objects, object)
	if pod, ok := object.(*corev1.Pod); ok {
		in.pods = append(in.pods, pod)
	}
	return nil
}

func (in *input) settings(raw json.RawMessage) error {
	var operator struct {
		Spec struct {
			MeshConfig map[string]any `json:"meshConfig"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &operator); err != nil {
		return err
	}
	text, err := yaml.Marshal(operator.Spec.MeshConfig)
	if err != nil {
		return err
	}
	in.mesh, err = mesh.ApplyMeshConfig(string(text), in.mesh)
	return err
}

func build(t test.Failer, in input, istio, gatewayAPI string, out *answer) {
	services, _ := serve(t, in)
	in.configs = append(in.configs, doors(t, in, services.PushContext(), gatewayAPI)...)
	server, registry := serve(t, in)
	for _, pod := range in.pods {
		node := server.SetupProxy(&model.Proxy{
			Type:            typeOf(pod),
			IPAddresses:     []string{pod.Status.PodIP},
			ID:              pod.Name + "." + pod.Namespace,
			ConfigNamespace: pod.Namespace,
			Labels:          pod.Labels,
			Metadata: &model.NodeMetadata{
				IstioVersion: istio,
				Namespace:    pod.Namespace,
				Labels:       pod.Labels,
				ClusterID:    cluster,
			},
		})
		out.Proxies[pod.Namespace+"/"+pod.Name] = proxy{
			Listeners: list(t, server.Listeners(node)),
			Routes:    list(t, server.Routes(node)),
			Clusters:  list(t, server.Clusters(node)),
			Endpoints: list(t, assignments(server, node, registry.Endpoints)),
		}
	}
}

// serve returns an istiod that knows what was read, and its registry of Services.
func serve(t test.Failer, in input) (*core.ConfigGenTest, *controller.FakeController) {
	client := kube.NewFakeClient(in.objects...)
	registry, _ := controller.NewFakeControllerWithOptions(t, controller.FakeControllerOptions{
		Client:        client,
		DomainSuffix:  domain,
		MeshWatcher:   meshwatcher.NewTestWatcher(in.mesh),
		ClusterID:     cluster,
		ConfigCluster: true,
		SkipRun:       true,
	})
	client.RunAndWait(test.NewStop(t))
	server := core.NewConfigGenTest(t, core.TestOptions{
		Configs:           in.configs,
		MeshConfig:        in.mesh,
		ServiceRegistries: []serviceregistry.Instance{registry},
		ClusterID:         cluster,
		SkipRun:           true,
	})
	server.Env().EndpointIndex = registry.Endpoints
	server.Run()
	if err := server.Env().InitNetworksManager(model.NewEndpointIndexUpdater(registry.Endpoints)); err != nil {
		t.Fatal(err)
	}
	server.PushContext().InitContext(server.Env(), nil, nil)
	return server, registry
}

// doors returns what istiod makes of the Gateway API's objects: objects of its own.
func doors(t test.Failer, in input, services *model.PushContext, version string) []config.Config {
	client := kube.NewFakeClient(in.objects...)
	for _, each := range []schema.GroupVersionResource{gvr.GatewayClass, gvr.KubernetesGateway, gvr.HTTPRoute, gvr.GRPCRoute} {
		clienttest.MakeCRDWithAnnotations(t, client, each, map[string]string{consts.BundleVersionAnnotation: version})
	}
	known := func(schema.GroupVersionResource, <-chan struct{}) bool { return true }
	converter := gateway.NewController(client, known, controller.Options{DomainSuffix: domain, ClusterID: cluster}, nil)
	stop := test.NewStop(t)
	go converter.Run(stop)
	client.RunAndWait(stop)
	converter.Reconcile(services)
	kube.WaitForCacheSync("gateway", stop, converter.HasSynced)
	var found []config.Config
	for _, each := range []config.GroupVersionKind{gvk.Gateway, gvk.VirtualService, gvk.DestinationRule} {
		found = append(found, converter.List(each, "")...)
	}
	return found
}

func assignments(server *core.ConfigGenTest, node *model.Proxy, index *model.EndpointIndex) []*endpoint.ClusterLoadAssignment {
	var result []*endpoint.ClusterLoadAssignment
	for _, each := range server.Clusters(node) {
		if each.GetType() == envoy.Cluster_EDS {
			builder := endpoints.NewEndpointBuilder(each.Name, node, server.PushContext())
			result = append(result, builder.BuildClusterLoadAssignment(index))
		}
	}
	return result
}

func typeOf(pod *corev1.Pod) model.NodeType {
	if pod.Labels["istio"] == "ingressgateway" {
		return model.Router
	}
	return model.SidecarProxy
}

func list[M proto.Message](t test.Failer, messages []M) []json.RawMessage {
	result := make([]json.RawMessage, 0, len(messages))
	for _, message := range messages {
		text, err := protomarshal.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		result = append(result, text)
	}
	return result
}
