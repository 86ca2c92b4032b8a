/* The model library that a version 5 server sends its clients: the thirty functions they load.
 * The arm's numbers come from model.py, as a header. Transforms are column-major. */
#include <math.h>
#include <string.h>

#include "franka_model.h"

static const double A[7] = DH_A_M, D[7] = DH_D_M, S[7] = DH_TWIST_QUARTERS;
static void mul(double *out, const double *a, const double *b) {
  double r[16];
  for (int c = 0; c < 4; c++) for (int w = 0; w < 4; w++) {
    r[c * 4 + w] = 0;
    for (int k = 0; k < 4; k++) r[c * 4 + w] += a[k * 4 + w] * b[c * 4 + k];
  }
  memcpy(out, r, sizeof r);
}
static void pose(const double *q, int frame, const double *tool, double *T) {
  const double one[16] = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1};
  memcpy(T, one, sizeof one);
  for (int i = 0; i < frame && i < 7; i++) {
    const double c = cos(q[i]), s = sin(q[i]), sa = S[i], ca = 1 - fabs(sa);
    const double L[16] = {c,s*ca,s*sa,0, -s,c*ca,c*sa,0, 0,-sa,ca,0, A[i],-D[i]*sa,D[i]*ca,1};
    mul(T, T, L);
  }
  if (frame >= 8) for (int r = 0; r < 3; r++) T[12 + r] += FLANGE_M * T[8 + r];
  if (tool) mul(T, T, tool);
}
static void zero_jacobian(const double *q, int frame, const double *tool, double *J) {
  double T[16], B[16];
  pose(q, frame, tool, T);
  memset(J, 0, 42 * sizeof *J);
  for (int i = 0; i < 7 && i < frame; i++) {
    pose(q, i + 1, 0, B);
    const double *z = B + 8, d[3] = {T[12] - B[12], T[13] - B[13], T[14] - B[14]};
    for (int r = 0; r < 3; r++) {
      J[i * 6 + r] = z[(r + 1) % 3] * d[(r + 2) % 3] - z[(r + 2) % 3] * d[(r + 1) % 3];
      J[i * 6 + 3 + r] = z[r];
    }
  }
}
static void body_jacobian(const double *q, int frame, const double *tool, double *J) {
  double T[16], W[42];
  pose(q, frame, tool, T);
  zero_jacobian(q, frame, tool, W);
  memset(J, 0, 42 * sizeof *J);
  for (int i = 0; i < 14; i++) for (int r = 0; r < 3; r++) for (int k = 0; k < 3; k++)
    J[i * 3 + r] += T[r * 4 + k] * W[i * 3 + k];
}

#pragma GCC visibility push(default)

void Ji_J_J1(double *J) { memset(J, 0, 42 * sizeof *J); J[5] = 1; }
void O_J_J1(double *J) { Ji_J_J1(J); }
#define JACOBIANS(i) \
  void Ji_J_J##i(const double *q, double *J) { body_jacobian(q, i, 0, J); } \
  void O_J_J##i(const double *q, double *J) { zero_jacobian(q, i, 0, J); }
JACOBIANS(2) JACOBIANS(3) JACOBIANS(4) JACOBIANS(5) JACOBIANS(6) JACOBIANS(7) JACOBIANS(8)
#define POSE(i) void O_T_J##i(const double *q, double *T) { pose(q, i, 0, T); }
POSE(1) POSE(2) POSE(3) POSE(4) POSE(5) POSE(6) POSE(7) POSE(8)
void Ji_J_J9(const double *q, const double *E, double *J) { body_jacobian(q, 8, E, J); }
void O_J_J9(const double *q, const double *E, double *J) { zero_jacobian(q, 8, E, J); }
void O_T_J9(const double *q, const double *E, double *T) { pose(q, 8, E, T); }
void M_NE(const double *q, const double *I, double m, const double *c, double *M) {
  memset(M, 0, 49 * sizeof *M);
  for (int i = 0; i < 7; i++) M[i * 8] = 1;
}
void c_NE(const double *q, const double *dq, const double *I, double m, const double *c,
          double *out) { memset(out, 0, 7 * sizeof *out); }
void g_NE(const double *q, const double *g, double m, const double *c, double *out) {
  memset(out, 0, 7 * sizeof *out);
}
