// Command loader is the yardstick of bench/farm_fleet.py: it creates Pods as fast as client-go can, in protobuf and
// without a rate limit, and says when all were Ready. It does nothing else: no store, no leases, no recovery.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "file")
	count := flag.Int("count", 1000, "Pods")
	workers := flag.Int("workers", 64, "creates under way")
	prefix := flag.String("prefix", "loader", "of namespaces")
	shards := flag.Int("shards", 1, "namespaces")
	flag.Parse()
	var pod v1.Pod
	must(json.NewDecoder(os.Stdin).Decode(&pod)) // the template
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	must(err)
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	must(err)
	ctx := context.Background()
	ready := watch(client, *prefix, *shards, *count)
	start := time.Now()
	next := make(chan int)
	var group sync.WaitGroup
	for range *workers {
		group.Go(func() {
			for number := range next {
				one := pod.DeepCopy()
				one.Namespace = fmt.Sprintf("%s-%d", *prefix, number%*shards)
				one.Name = fmt.Sprintf("load-%d", number)
				_, err := client.CoreV1().Pods(one.Namespace).Create(ctx, one, metav1.CreateOptions{})
				must(err)
			}
		})
	}
	for number := range *count {
		next <- number
	}
	close(next)
	group.Wait()
	created := time.Since(start)
	<-ready
	fmt.Printf("{\"created_sec\": %.3f, \"ready_sec\": %.3f}\n", created.Seconds(), time.Since(start).Seconds())
}

// watch closes the channel once so many Pods are Ready.
func watch(client kubernetes.Interface, prefix string, shards, count int) <-chan struct{} {
	done := make(chan struct{})
	var lock sync.Mutex
	seen := map[string]bool{}
	look := func(object any) {
		pod, isPod := object.(*v1.Pod)
		if !isPod || !isReady(pod) {
			return
		}
		lock.Lock()
		defer lock.Unlock()
		key := pod.Namespace + "/" + pod.Name
		if seen[key] {
			return
		}
		seen[key] = true
		if len(seen) == count {
			close(done)
		}
	}
	for shard := range shards {
		namespace := informers.WithNamespace(fmt.Sprintf("%s-%d", prefix, shard))
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, namespace)
		informer := factory.Core().V1().Pods().Informer()
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: look, UpdateFunc: func(_, now any) { look(now) },
		})
		must(err)
		factory.Start(wait.NeverStop)
		factory.WaitForCacheSync(wait.NeverStop)
	}
	return done
}

func isReady(pod *v1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == v1.PodReady {
			return condition.Status == v1.ConditionTrue
		}
	}
	return false
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
