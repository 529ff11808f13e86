module envfarm/agent

go 1.25
