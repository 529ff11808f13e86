module envfarm.test/testbed/pause

go 1.26.0
